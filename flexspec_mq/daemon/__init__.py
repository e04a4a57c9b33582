"""What every program of ours does alike: main functions, logs, progress, signals, tasks, systemd, probes."""
