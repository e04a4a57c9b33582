"""Drafters: a model, prompt lookup, both. Edges draft with them, and workers that draft while they run ahead."""
