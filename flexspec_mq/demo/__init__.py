"""The demo: a broker, a cloud worker and edge nodes as processes on this machine, over an emulated network."""
