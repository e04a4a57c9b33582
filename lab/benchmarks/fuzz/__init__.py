"""What hostile bytes do to all that reads from a network: whether it survives, and what a byte costs it."""
