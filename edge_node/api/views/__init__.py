"""Views for whoever looks at a node: events in words, models, the outbox, the page."""
