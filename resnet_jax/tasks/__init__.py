"""What a network is trained for. Each task has a folder. Tasks use `training` and `data`, never each other."""
