"""The train step and everything around it. Needs jax, flax, optax, orbax and numpy only."""
