"""Cause that keeps us from a broker, asked on the wire: by the doctor, the broker's check, and a daemon's start."""
