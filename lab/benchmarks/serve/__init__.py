"""Parts of `lab.benchmarks.serving`: daemons as processes, a client of their API, texts with references."""
