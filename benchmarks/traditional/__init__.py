"""`benchmarks.answers` with every side of traditional speculation, which is in `flexspec_mq.bench.traditional`."""
