"""What is shown on a terminal, by the demo and the chat alike."""
