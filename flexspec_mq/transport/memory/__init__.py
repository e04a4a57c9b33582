"""A broker inside the process, and the link to it."""
