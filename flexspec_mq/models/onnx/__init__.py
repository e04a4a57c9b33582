"""Drafts by ONNX Runtime, without torch on the device; not bit-exact, as the target decides every token."""
