"""Parts of the benchmark of attacks: a deployment, honest streams, and what one malicious device does beside them."""
