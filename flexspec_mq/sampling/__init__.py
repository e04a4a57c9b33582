"""Common random numbers: how a token is chosen from logits, the same on both sides."""
