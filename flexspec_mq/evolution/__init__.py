"""``flexspec head``: the commands of those who make and publish versions of a target family."""
