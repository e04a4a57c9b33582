"""Hostile bytes for all that reads from a network. tests/lab/test_fuzz.py runs it, as long as it is told to."""
