"""Both protocol machines joined by a bad link in simulated time, with a fake target and a fake draft."""
