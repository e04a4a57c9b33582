"""The device's side of traditional speculation; see `flexspec_mq.bench.traditional`. No edge node uses it."""
