"""Grammars: which tokens a text may go on with."""
