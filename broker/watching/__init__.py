"""What Mosquitto's log tells: who connects and publishes how much, and what was refused to whom."""
