"""Estimators of a node's channel, its draft and its workers."""
