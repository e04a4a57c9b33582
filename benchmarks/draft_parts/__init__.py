"""Parts of the benchmarks of drafts."""
