"""A map of wins and losses: target's time x round trip x sessions at the worker, in simulated time."""
