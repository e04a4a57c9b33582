"""How long after an outage a user waits."""
