"""Making a draft: collecting text, training, measuring, packing, and the commands for it."""
