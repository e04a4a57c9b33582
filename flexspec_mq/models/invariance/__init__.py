"""What makes verification shape-invariant: attention and products in steady shapes, and the proof of them."""
