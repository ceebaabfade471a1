"""The commands of `python -m resnet_jax`, a function each; its annotations and docstring are its help."""
