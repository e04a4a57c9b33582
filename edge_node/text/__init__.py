"""From a request to a text."""
