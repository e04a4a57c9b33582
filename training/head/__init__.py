"""Train a head: LoRA adapter or full LM head on a frozen base."""
