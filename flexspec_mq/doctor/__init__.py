"""What a setup needs, checked end to end: what is wrong, and how to mend it.

Here is what all daemons share; `edge_node.doctor.examine` and `cloud_worker.doctor` check what only they know.
"""
