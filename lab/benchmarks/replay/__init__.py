"""Recorded drafts: what a target wrote and its draft proposed, and edge nodes that replay it at a device's pace."""
