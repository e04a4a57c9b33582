"""Heads on a base: what a version of a target family is computed with."""
