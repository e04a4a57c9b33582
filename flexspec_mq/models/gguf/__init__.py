"""GGUF files as checkpoint folders: whatever loads a folder loads them."""
