"""Parts of `benchmarks.leaves`."""
