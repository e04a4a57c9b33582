"""The worker's side of the session protocol: one machine for all sessions."""
