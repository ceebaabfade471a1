"""The train step and all around it. Needs jax, flax, optax, orbax and numpy only."""
