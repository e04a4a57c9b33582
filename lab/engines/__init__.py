"""Somebody else's servers as targets: a real vLLM for CPUs, its wire recorded, and what drafting against it gives."""
