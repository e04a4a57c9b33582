"""What a node shows of itself and of what it keeps: events in words, models, the outbox, the page."""
