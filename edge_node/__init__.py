"""The device daemon: drafts, drives sessions, commits what the target decided."""
