"""The drafter's thread."""
