"""Checks of a setup, end to end, with advice; `edge_node.doctor` and `cloud_worker.doctor` add what only they know."""
