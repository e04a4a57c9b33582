"""The page of an edge node in a real Chromium: what a newcomer does there, what it costs, and its pictures."""
