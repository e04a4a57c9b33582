"""Knowledge of workers: which are online, and whether those that hold its sessions still live."""
