"""What a worker takes from each device: decided by its name, before a message is read."""
