"""The target alone, by code that shares nothing with the system: what texts are compared with."""
