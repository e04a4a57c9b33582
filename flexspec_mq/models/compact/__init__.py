"""Exact targets with Llama's layers, on joined matrices."""
