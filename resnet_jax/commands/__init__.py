"""The commands of `python -m resnet_jax`, one function each. Its annotations and docstring are the command's help."""
