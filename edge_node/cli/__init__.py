"""The commands of ``flexspec-edge``."""
