"""`python -m resnet_jax convert in.pth out.safetensors`"""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional


def convert(
    source: Positional[Path],
    target: Positional[Path],
    model: str | None = None,
    layout: Literal["torchvision", "timm_d", "huggingface", "pytorch_cifar"] | None = None,
    dtype: Literal["float32", "float16", "bfloat16"] | None = None,
    entry: str | None = None,
    prefix: str | None = None,
    checkpoint: Literal["last", "best"] = "last",
) -> None:
    """Convert weights from one file to another, or export a trained run to PyTorch.

    Every key and shape is checked against the network first.

    Args:
        source: A .pth, .pt or .safetensors file, or the folder that `train.py --workdir` filled.
        target: A .safetensors, .pth or .pt file to write.
        model: The name of the network in a file; by default the keys and shapes of the file decide.
        layout: Whose names to write: torchvision's (also timm's), timm's for its D nets, those of Hugging Face, or
            those of akamaster's and kuangliu's CIFAR networks. By default those of the library that has the network.
        dtype: Type of the numbers to write; by default that of the source.
        entry: The part of a training checkpoint to take, such as model_ema.
        prefix: Take only the keys that begin with it, such as module.encoder_q., and remove it from them.
        checkpoint: For a run: the newest checkpoint, or the one with the best top-1 accuracy.
    """
    from resnet_jax.files import open_folder
    from resnet_jax.weights.files import check_target, read_state_dict, write_state_dict

    check_target(target)
    is_run = Path(source).is_dir() or (not Path(source).is_file() and open_folder(source).is_dir())
    # Faults of a file are reported before the imports below, which take seconds.
    state_dict = {} if is_run else read_state_dict(source, entry=entry, prefix=prefix)
    from resnet_jax.models import create_model
    from resnet_jax.run.named import network_of
    from resnet_jax.run.network import fitting
    from resnet_jax.run.predict import load_run
    from resnet_jax.weights import head_and_channels, layout_of, options_in, to_torchvision, translate
    from resnet_jax.weights.narrowing import narrow

    others: list[str] = []
    if is_run:
        trained = load_run(source, checkpoint)
        network, name = trained.model, trained.config.model.name
        state_dict = to_torchvision(network_of(trained).variables, num_batches_tracked=int(trained.state.step))
        channels: int | None = trained.config.data.channels
    else:
        found, *others = [model] if model else fitting(state_dict, source)
        _, channels = head_and_channels(state_dict)
        network, name = create_model(found, **options_in(found, state_dict)), found
    state_dict = translate(state_dict, network, layout=layout or layout_of(network), channels=channels or 3)
    if dtype is not None:
        import ml_dtypes
        import numpy as np

        state_dict = narrow(state_dict, np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype))
    write_state_dict(target, state_dict)
    if others:
        print(
            f"The arrays of {' and '.join(others)} have the same names and shapes; they are written alike. "
            f"{name} is a guess: --model says which network it is."
        )
    print(f"{name}: wrote {len(state_dict)} arrays to {target}")
