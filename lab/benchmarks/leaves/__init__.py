"""What second choices of a draft, read as leaves of its chain, would save."""
