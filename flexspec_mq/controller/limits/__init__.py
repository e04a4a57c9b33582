"""Limits that a user gives, and that every adaptive policy keeps: energy, battery and time of a token."""
