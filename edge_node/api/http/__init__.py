"""HTTP before the paths: connections, bodies, and who may ask. Nothing here knows of texts."""
