"""The target's side of traditional speculation; see `lab.bench.traditional`. No worker uses it."""
