"""What simulations need of models: texts of the target, what the draft proposes along them, and what both take."""
