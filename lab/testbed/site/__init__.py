"""Broker, workers and edge nodes as processes on this machine, for the demo, benchmarks and tests."""
