"""Weights that ship: the draft of the default model, and example heads of its family. They are read as files."""
