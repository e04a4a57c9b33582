"""The parts of the exactness benchmark; `lab.benchmarks.exactness` runs them."""
