"""``flexspec chat`` and ``flexspec top``: terminal clients of the edge node's HTTP API, by which alone they know it."""
