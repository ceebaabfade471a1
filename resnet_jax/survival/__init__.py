"""What lets a run go on: checkpoints, signals, a watchdog, and what to do about numbers that are not finite."""
