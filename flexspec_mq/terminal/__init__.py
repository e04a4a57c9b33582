"""Display on a terminal, for the demo and the chat alike."""
