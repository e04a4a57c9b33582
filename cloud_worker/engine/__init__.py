"""The engine: scheduler, KV cache, forward and acceptance, on a thread of its own."""
