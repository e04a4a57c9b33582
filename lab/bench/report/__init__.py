"""What a run comes to, for people: tables, plots, and the machine that it was measured on."""
