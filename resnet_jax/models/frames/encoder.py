"""A Transformer encoder with PyTorch's equations and names: `torch.nn.TransformerEncoder` with `batch_first=True`,
`norm_first=True`, `activation="gelu"` and a last norm."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from resnet_jax.models.layers import Dtype, dropout, linear_bias_init, linear_kernel_init

WIDER = 4
"""The layer between the two products of a block has this many times more channels (Vaswani et al. 2017)."""


class Attention(nn.Module):
    """Self-attention of several heads (Vaswani et al. 2017, arXiv:1706.03762) as `torch.nn.MultiheadAttention`.

    The product in front, of queries, keys and values at once, is `in_proj`; that behind is `out_proj`.
    """

    heads: int
    dropout: float = 0.0
    precision: lax.PrecisionLike = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "N T C"],
        real: Bool[Array, "N T"],
        *,
        train: bool,
        positions: Int[Array, " N"] | None = None,
    ) -> Float[Array, "N T C"]:
        n, t, channels = x.shape
        dense = partial(nn.Dense, precision=self.precision, param_dtype=self.param_dtype)
        # torch's first weights: Xavier's for the one in front, and no bias.
        first = dense(3 * channels, kernel_init=nn.initializers.xavier_uniform(), name="in_proj")(x)
        q, k, v = first.reshape(n, t, 3, self.heads, -1).transpose(2, 0, 3, 1, 4)
        scores = jnp.einsum("nhqc,nhkc->nhqk", q, k, precision=self.precision) / math.sqrt(q.shape[-1])
        shares = jax.nn.softmax(jnp.where(real[:, None, None], scores, -jnp.inf))
        if train and self.dropout:
            shares = dropout(shares, self.make_rng("dropout"), self.dropout, positions)
        seen = jnp.einsum("nhqk,nhkc->nhqc", shares, v, precision=self.precision)
        return dense(channels, kernel_init=linear_kernel_init, name="out_proj")(
            seen.transpose(0, 2, 1, 3).reshape(n, t, channels)
        )


class EncoderLayer(nn.Module):
    """Attention and a perceptron of two layers, each after a norm and beside the identity (`norm_first`)."""

    heads: int
    dropout: float = 0.0
    precision: lax.PrecisionLike = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "N T C"],
        real: Bool[Array, "N T"],
        *,
        train: bool,
        positions: Int[Array, " N"] | None = None,
    ) -> Float[Array, "N T C"]:
        dropped = (
            (lambda y: dropout(y, self.make_rng("dropout"), self.dropout, positions))
            if train and self.dropout
            else lambda y: y
        )
        width = x.shape[-1]
        options = {"precision": self.precision, "param_dtype": self.param_dtype}
        dense = partial(nn.Dense, kernel_init=linear_kernel_init, **options)
        widen = dense(WIDER * width, bias_init=linear_bias_init(width), name="linear1")
        narrow = dense(width, bias_init=linear_bias_init(WIDER * width), name="linear2")
        norm = partial(nn.LayerNorm, epsilon=1e-5, param_dtype=self.param_dtype, use_fast_variance=False)
        attend = Attention(self.heads, self.dropout, self.precision, self.param_dtype, name="self_attn")
        x = x + dropped(attend(norm(name="norm1")(x), real, train=train, positions=positions))
        inner = dropped(nn.gelu(widen(norm(name="norm2")(x)), approximate=False))
        return x + dropped(narrow(inner))


class Encoder(nn.Module):
    """Layers of the encoder and a last norm, over (N, T, C)."""

    layers: int
    heads: int
    dropout: float = 0.0
    precision: lax.PrecisionLike = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "N T C"],
        real: Bool[Array, "N T"],
        *,
        train: bool,
        positions: Int[Array, " N"] | None = None,
    ) -> Float[Array, "N T C"]:
        """(N, T, C) -> (N, T, C).

        Args:
          real: which places hold something; the others are seen by none.
          positions: places of the clips in the global batch, for dropout.
        """
        for i in range(self.layers):
            layer = EncoderLayer(self.heads, self.dropout, self.precision, self.param_dtype, name=f"layers_{i}")
            x = layer(x, real, train=train, positions=positions)
        return nn.LayerNorm(epsilon=1e-5, param_dtype=self.param_dtype, use_fast_variance=False, name="norm")(x)
