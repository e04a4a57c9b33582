"""The part of `lab.benchmarks.engine` that needs no other engine."""
