"""The versions that a worker holds, and where they come from."""
