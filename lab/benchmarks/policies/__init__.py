"""Policies beside the best fixed plan in hindsight, simulated; and how long a decision takes."""
