"""A draft as cheap as a device can have it: fused matrices, 8-bit weights, an LM head of fewer ids.

`load.py` reads an ordinary checkpoint folder, `model.py` runs it with the interface of `PackedModel`. Nothing here is
bit-exact: the target decides every token, so a draft only has to be quick and nearly right.
"""
