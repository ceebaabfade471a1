"""The functions that users call: train, evaluate, predict. Also what a run leaves in its folder."""
