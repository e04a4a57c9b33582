"""`lab.benchmarks.answers` with every side of traditional speculation, which is in `lab.bench.traditional`."""
