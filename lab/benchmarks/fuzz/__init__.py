"""Hostile bytes for all that reads from a network: whether it survives, and what a byte costs it."""
