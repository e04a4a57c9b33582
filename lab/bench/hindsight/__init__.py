"""What is only known afterwards: the run's own texts and drafts, and how plans would have fared on them."""
