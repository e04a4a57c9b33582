"""The verifier daemon: holds one target version and decides tokens."""
