"""Batch-invariant verification: attention and products in steady shapes, and the proof of them."""
