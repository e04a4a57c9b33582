"""``flexspec chat``: a terminal client of the edge node's HTTP API. It knows the node by HTTP only."""
