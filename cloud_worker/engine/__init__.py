"""The engine: scheduler, KV cache, model runner and acceptance, on a thread of its own."""
