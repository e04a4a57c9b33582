"""Both protocol machines in simulated time: under every fault with a fake target, and over real links as recorded."""
