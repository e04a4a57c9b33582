"""Mosquitto's log, read for who connects and publishes how much, and for what was refused to whom."""
