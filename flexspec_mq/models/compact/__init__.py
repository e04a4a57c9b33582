"""Models with Llama's layers on joined matrices: drafts in few bits (`model`), and exact targets (`exact`)."""
