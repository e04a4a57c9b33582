"""The worker daemon: holds one target version and decides tokens."""
