"""Engines that a user would pick instead of our target, each in a process of its own, asked by the same words."""
