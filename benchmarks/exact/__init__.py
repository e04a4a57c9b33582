"""The parts of the exactness benchmark; `benchmarks.exactness` runs them."""
