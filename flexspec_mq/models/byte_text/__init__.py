"""Texts of bytes, of servers that tell no token ids."""
