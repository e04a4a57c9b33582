"""A family's catalogue: signing it, what is refused, what is kept, and what its names mean."""
