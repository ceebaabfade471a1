"""`python -m resnet_jax memory`"""

from typing import Annotated, Literal

import tyro


def memory(
    name: Annotated[str, tyro.conf.Positional],
    batch_size: int = 256,
    image_size: int | None = None,
    frames: int = 16,
    dtype: Literal["float32", "tf32", "bfloat16", "float16"] = "float32",
    stages: tuple[int, ...] = (1, 2, 3, 4),
) -> None:
    """Print the peak memory of a compiled training step on one device, with and without rematerialisation.

    Args:
        name: A network, such as 'resnet152'.
        batch_size: Images, or clips, on the device.
        image_size: Height and width in pixels; by default the size that the network is for, as `models` lists it.
        frames: Length of the clips that a network in space and time sees.
        dtype: Type of activations and convolutions.
        stages: Stages that compute their activations again in the backward pass (`model.remat`).
    """
    import jax

    from resnet_jax.config import Classify, ClipConfig, Clips, Config, DataConfig, Embed, ModelConfig, Segment
    from resnet_jax.cost.count import usual_size
    from resnet_jax.cost.forecast import forecast
    from resnet_jax.display import bytes_of
    from resnet_jax.models import create_model, list_models
    from resnet_jax.models.create import backbone_of
    from resnet_jax.models.embed.table import is_embedder

    size, clips = image_size or usual_size(create_model(name)), name in list_models(task="clips")
    task: Classify | Clips | Embed | Segment
    if is_embedder(name):
        task = Embed()
    elif clips:
        task = Clips()
    else:
        task = Segment() if backbone_of(name) else Classify()
    data = DataConfig(name="synthetic", image_size=size, eval_resize=size, clip=ClipConfig(frames=frames))
    device = jax.devices()[:1]
    images = f"{batch_size} clips of {frames} frames" if clips else f"{batch_size} images"
    print(f"One update of {name} with {images} of {size} pixels in {dtype} on one {device[0].platform}:", flush=True)
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
