"""The whole system in one process under one seed: real nodes over a simulated network, disk, clock and model."""
