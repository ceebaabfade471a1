"""`python -m resnet_jax memory`"""

from typing import Annotated, Literal

import tyro


def memory(
    name: Annotated[str, tyro.conf.Positional],
    batch_size: int = 256,
    image_size: int = 224,
    dtype: Literal["float32", "tf32", "bfloat16", "float16"] = "float32",
    stages: tuple[int, ...] = (1, 2, 3, 4),
) -> None:
    """Print the peak memory of a compiled training step on one device, with and without rematerialisation.

    Args:
        name: A network, such as 'resnet152'.
        batch_size: Images on the device.
        image_size: Height and width in pixels.
        dtype: Type of activations and convolutions.
        stages: Stages that compute their activations again in the backward pass (`model.remat`).
    """
    import jax

    from resnet_jax.config import Classify, Config, DataConfig, Embed, ModelConfig
    from resnet_jax.cost.forecast import forecast
    from resnet_jax.display import bytes_of
    from resnet_jax.models.embed.table import is_embedder

    data = DataConfig(name="synthetic", image_size=image_size, eval_resize=image_size)
    task = Embed() if is_embedder(name) else Classify()
    device = jax.devices()[:1]
    images = f"{batch_size} images of {image_size} pixels"
    print(f"One update of {name} with {images} in {dtype} on one {device[0].platform}:")
    for remat in ((), stages):
        model = ModelConfig(name=name, dtype=dtype, remat=remat)
        found = forecast(Config(model=model, data=data, task=task, batch_size=batch_size), device)
        what = f"remat of stages {', '.join(map(str, remat))}" if remat else "without remat"
        print(
            f"  {what:<28} peak {bytes_of(found.peak_bytes)}: state {bytes_of(found.state_bytes)}, batch "
            f"{bytes_of(found.batch_bytes)}, activations and scratch {bytes_of(found.temporary_bytes)}; "
            f"kept for the backward pass {bytes_of(found.kept_bytes)}",
            flush=True,
        )
