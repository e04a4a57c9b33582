"""What `lab.benchmarks.serving` is made of: daemons as processes, a client of their API, texts with references."""
