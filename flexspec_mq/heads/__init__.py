"""Heads as files: what makes a version of a target family out of its base, bound by a manifest."""
