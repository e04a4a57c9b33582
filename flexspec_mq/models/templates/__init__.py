"""Chat templates, which may be a stranger's: rendered in a sandbox with bounds."""
