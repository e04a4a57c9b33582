"""What each policy does while the link under an answer changes, drawn."""
