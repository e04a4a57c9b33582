"""The session protocol, sans-IO: pure state machines for the edge side and the worker side."""
