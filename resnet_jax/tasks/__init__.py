"""What a network is trained for, a folder each. They stand on `training` and `data`, and never import each other."""
