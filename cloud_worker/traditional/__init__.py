"""The target's side of traditional speculation; see `flexspec_mq.bench.traditional`. No worker uses it."""
