"""``flexspec-edge``: its flags, its commands, and how they show a text."""
