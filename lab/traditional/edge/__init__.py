"""The device's side of traditional speculation; see `lab.bench.traditional`. No edge node uses it."""
