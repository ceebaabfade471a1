"""A backbone, and a head that makes a vector of its last maps."""

from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float, Int

from resnet_jax.errors import ModelError
from resnet_jax.models.blueprint import draw
from resnet_jax.models.forms import in_halves
from resnet_jax.models.headed import Headed
from resnet_jax.models.layers import dropout, linear_bias_init, linear_kernel_init
from resnet_jax.models.resnet import ResNet, tools_of
from resnet_jax.models.segment.network import stages_of


class Embedder(Headed):
    """A network that gives each image an embedding: insightface's iresnet, or any network of the family below a head.

    The embedding is not normalised. Compare two by their cosine.

    Attributes:
      trunk: a network without `fc`.
      embedding_size: numbers of an embedding.
      head: `"flat"` = insightface's: a norm, every number of the last maps, a linear layer, a norm; `"pooled"` = the
        trunk's pool, a linear layer, a norm.
      sides: height and width of the images, which a flat head fixes.
      dropout: rate at which training drops numbers before the linear layer.
    """

    root = "trunk"
    gives = "embedding"
    trunk: ResNet
    embedding_size: int = 512
    head: str = "pooled"
    sides: tuple[int, int] = (112, 112)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.head not in ("flat", "pooled"):
            raise ModelError(f"head = {self.head!r} must be 'flat' or 'pooled'")
        if self.embedding_size < 1:
            raise ModelError(f"embedding_size = {self.embedding_size} must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ModelError(f"dropout = {self.dropout} must be at least 0 and less than 1")
        super().__post_init__()

    @property
    def num_classes(self) -> int:
        """None, as of a `ResNet` without `fc`."""
        return 0

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "N H W C"],
        *,
        train: bool,
        features: bool = False,
        use_batch_stats: bool | None = None,
        update_stats: bool | None = None,
        positions: Int[Array, " N"] | None = None,
    ) -> Float[Array, "N E"] | dict[str, Array]:
        """(N, H, W, C) normalised images -> (N, embedding_size), at least float32.

        Args:
          train, use_batch_stats, update_stats, positions: as of `ResNet`.
          features: return also what the stages of the trunk put out, as `ResNet` does, and `embedding`.

        Raises:
          ModelError: as of `ResNet`; images whose last maps have another size than a flat head was made for;
            training with dropout without a key.
        """
        if train and self.dropout and not self.has_rng("dropout"):
            raise ModelError(
                f"dropout = {self.dropout} draws random numbers in training; pass rngs={{'dropout': key}} to apply, or "
                "train=False"
            )
        options: dict[str, Any] = {"train": train, "use_batch_stats": use_batch_stats, "update_stats": update_stats}
        out = self.trunk(images, features=True, positions=positions, **options)
        _, _, norm = tools_of(self.trunk, draw(self.trunk), **options)
        if self.head == "flat":
            x = norm(name="bn2")(out.get("activated", out[stages_of(self.trunk)[-1]]))
            self._check_size(images, x)
            # Channels first, as the weights of a flattened (N, C, H, W) in PyTorch are.
            x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)  # a batch of any number has no `len`
        else:
            x = out["pooled"]
        if train and self.dropout:
            x = dropout(x, self.make_rng("dropout"), self.dropout, positions)
        x = nn.Dense(
            self.embedding_size,
            kernel_init=linear_kernel_init,
            bias_init=linear_bias_init(x.shape[-1]),
            precision=self.trunk.precision,
            param_dtype=self.param_dtype,
            dot_general=in_halves,
            name="fc",
        )(x.astype(out["pooled"].dtype))
        embedding = norm(dtype=None, name="features")(x)
        return {**out, "embedding": embedding} if features else embedding

    def _check_size(self, images: Array, maps: Array) -> None:
        stride = draw(self.trunk).stride
        if maps.shape[1:3] != tuple(-(-side // stride) for side in self.sides):
            height, width = images.shape[1:3]
            raise ModelError(
                f"the head is made for images of {self.sides[0]}x{self.sides[1]} pixels, and these have "
                f"{height}x{width}; resize them, or pass sides=({height}, {width}) to create_model"
            )
