"""Real daemons on this machine, with an emulated network between device and cloud."""
