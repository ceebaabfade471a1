"""LSTM and GRU with PyTorch's equations and names: `torch.nn.LSTM` and `torch.nn.GRU` with `batch_first=True`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Int

from resnet_jax.models.layers import Dtype, dropout

Gates = Float[Array, "N G"]


def uniform(hidden: int) -> nn.initializers.Initializer:
    """torch's first weights of a recurrent layer: uniform in +-1 / sqrt(hidden)."""

    def init(key: Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -1.0, 1.0) / jnp.sqrt(hidden).astype(dtype)

    return init


class Linear(nn.Module):
    """The arrays of a linear layer, for a product that its user computes."""

    inputs: int
    outputs: int
    hidden: int
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "I O"], Float[Array, " O"]]:
        first = uniform(self.hidden)
        kernel = self.param("kernel", first, (self.inputs, self.outputs), self.param_dtype)
        return kernel, self.param("bias", first, (self.outputs,), self.param_dtype)


def lstm_step(
    state: tuple[Array, Array], ours: Gates, theirs: Gates
) -> tuple[tuple[Array, Array], Float[Array, "N H"]]:
    """(h, c) after one more frame (Hochreiter & Schmidhuber 1997, with a forget gate).

    Args:
      ours: what the frame gives to the gates; `theirs`, what the state gives.
    """
    i, f, g, o = jnp.split(ours + theirs, 4, axis=-1)
    cell = nn.sigmoid(f) * state[1] + nn.sigmoid(i) * jnp.tanh(g)
    out = nn.sigmoid(o) * jnp.tanh(cell)
    return (out, cell), out


def gru_step(state: tuple[Array], ours: Gates, theirs: Gates) -> tuple[tuple[Array], Float[Array, "N H"]]:
    """The same of a GRU (Cho et al. 2014, arXiv:1406.1078; the reset gate after the product, as in torch and cuDNN)."""
    r, z, n = jnp.split(ours, 3, axis=-1)
    r_h, z_h, n_h = jnp.split(theirs, 3, axis=-1)
    update = nn.sigmoid(z + z_h)
    out = (1 - update) * jnp.tanh(n + nn.sigmoid(r + r_h) * n_h) + update * state[0]
    return (out,), out


CELLS: dict[str, tuple[Callable[..., Any], int, int]] = {"lstm": (lstm_step, 4, 2), "gru": (gru_step, 3, 1)}
"""For each kind: the step, the gates, and the vectors of the state."""


class Recurrent(nn.Module):
    """Layers of an LSTM or a GRU over (N, T, C), from the first frame to the last.

    An output depends on the frames up to its own. So frames behind the end of a short video change no output before.

    Attributes:
      kind: of `CELLS`.
      dropout: rate at which training drops what a layer gives to the next.
    """

    kind: str
    hidden: int
    layers: int = 1
    dropout: float = 0.0
    precision: lax.PrecisionLike = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "N T C"], *, train: bool, positions: Int[Array, " N"] | None = None
    ) -> Float[Array, "N T H"]:
        """(N, T, C) -> (N, T, hidden).

        Args:
          positions: places of the clips in the global batch, for dropout.
        """
        step, gates, vectors = CELLS[self.kind]
        for layer in range(self.layers):
            if layer and train and self.dropout:
                x = dropout(x, self.make_rng("dropout"), self.dropout, positions)
            arrays = lambda name, inputs: Linear(inputs, gates * self.hidden, self.hidden, self.param_dtype, name=name)
            kernel, bias = arrays(f"ih_l{layer}", x.shape[-1])()
            own, own_bias = arrays(f"hh_l{layer}", self.hidden)()
            # Of all frames in one product; only the state has to wait for the frame before.
            ours = jnp.matmul(x, kernel, precision=self.precision) + bias[None, None]

            def advance(state: Any, ours: Gates, own: Array = own, bias: Array = own_bias) -> Any:
                return step(state, ours, jnp.matmul(state[0], own, precision=self.precision) + bias[None])

            nothing = jnp.zeros((x.shape[0], self.hidden), ours.dtype)
            _, outputs = lax.scan(advance, (nothing,) * vectors, jnp.moveaxis(ours, 1, 0))
            x = jnp.moveaxis(outputs, 0, 1)
        return x
