"""What keeps a run alive: checkpoints, signals, a watchdog, and the handling of numbers that are not finite."""
