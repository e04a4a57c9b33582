"""The part of `benchmarks.engine` that needs no other engine."""
