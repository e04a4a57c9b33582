"""A draft for devices, run by ONNX Runtime: neither torch nor transformers is imported on the way.

`write.py` makes the folder from a checkpoint, where torch is; `folder.py` says what is in it, `model.py` runs it. As
with `compact`, nothing here is bit-exact: the target decides every token.
"""
