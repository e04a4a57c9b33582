"""The demo: a broker, a cloud worker and an edge node as processes on this machine, writing a text together."""
