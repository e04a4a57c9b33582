"""Both sides of speculative decoding as papers before FlexSpec have it, to compare with."""
