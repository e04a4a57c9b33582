"""The edge's side of the session protocol: one machine a session."""
