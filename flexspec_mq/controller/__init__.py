"""The plan for the next draft batch, and the policies that make it."""
