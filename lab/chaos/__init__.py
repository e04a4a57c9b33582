"""Faults and attacks by a seed against real daemons, a history of all that happened, and a checker of histories."""
