"""How learned policies are trained: episodes that are drawn, what is tried in them, and what is fitted to it."""
