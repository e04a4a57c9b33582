"""Drafters: a model, prompt lookup, both; and the thread that they run on."""
