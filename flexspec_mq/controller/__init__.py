"""The plan for the next draft batch: estimates, an observation of them, and the policies that make a plan of it."""
