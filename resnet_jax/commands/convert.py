"""`python -m resnet_jax convert in.pth out.safetensors`"""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional


def convert(
    source: Positional[Path],
    target: Positional[Path],
    model: str | None = None,
    layout: Literal["torchvision", "timm_d", "huggingface"] | None = None,
    dtype: Literal["float32", "float16", "bfloat16"] | None = None,
    entry: str | None = None,
    checkpoint: Literal["last", "best"] = "last",
) -> None:
    """Convert weights from one file to another, or export a trained run to PyTorch.

    Every key and shape is checked against the network first.

    Args:
        source: A .pth, .pt or .safetensors file, or the folder that `train.py --workdir` filled.
        target: A .safetensors, .pth or .pt file to write.
        model: The network in a file; without it the one that its keys and shapes are those of.
        layout: Whose names to write: torchvision's (also timm's), timm's for its D nets, or those of Hugging Face.
            Without it those of the library that has the network.
        dtype: Of the numbers to write; without it as they are.
        entry: Which part of a training checkpoint to take, such as model_ema.
        checkpoint: Of a run: the newest, or the one with the best top-1 accuracy.
    """
    from resnet_jax import run
    from resnet_jax.errors import WeightsError
    from resnet_jax.files import open_folder
    from resnet_jax.models import create_model
    from resnet_jax.weights import identify, layout_of, read_state_dict, to_torchvision, translate, write_state_dict
    from resnet_jax.weights.torchvision import head_and_channels

    if open_folder(source).is_dir():
        trained = run.load_run(source, checkpoint)
        network, name = trained.model, trained.config.model.name
        state_dict = to_torchvision(trained.state.eval_variables, num_batches_tracked=int(trained.state.step))
        channels: int | None = trained.config.data.channels
    else:
        state_dict = read_state_dict(source, entry=entry)
        found = model or identify(state_dict)
        if found is None:
            raise WeightsError(f"{source} is of no network known here; name one with --model to see what differs")
        classes, channels = head_and_channels(state_dict)
        network, name = create_model(found, **({"num_classes": classes} if classes else {})), found
    state_dict = translate(state_dict, network, layout=layout or layout_of(network), channels=channels or 3)
    if dtype is not None:
        import ml_dtypes
        import numpy as np

        kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        state_dict = {
            key: array if array.dtype == np.int64 else array.astype(kind) for key, array in state_dict.items()
        }
    write_state_dict(target, state_dict)
    print(f"{name}: wrote {len(state_dict)} arrays to {target}")
