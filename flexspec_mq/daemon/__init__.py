"""Parts that all programs share: main functions, logs, progress, signals, tasks, systemd, probes."""
