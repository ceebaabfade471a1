"""The front doors: train, evaluate, predict, and what a run leaves in its folder."""
