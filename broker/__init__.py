"""The Mosquitto broker: configuration, launcher, checks."""
