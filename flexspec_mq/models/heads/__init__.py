"""Heads in torch: what a version adds to its base, read from files and checked, before any runner holds it."""
