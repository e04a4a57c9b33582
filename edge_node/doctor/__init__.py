"""``flexspec-edge doctor``."""
