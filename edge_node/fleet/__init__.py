"""Knowledge of workers: which are online and what they serve, and the catalogue of a family."""
