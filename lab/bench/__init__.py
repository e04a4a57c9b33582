"""``flexspec bench``: ways to write an answer between device and cloud, compared over links by what they take."""
