"""Where answers are measured: daemons as processes, a link between device and cloud, and a user who asks."""
