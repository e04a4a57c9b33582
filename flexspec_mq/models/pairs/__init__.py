"""Named pairs of a draft and a target: which files they are, what was measured of them, and how they come here."""
