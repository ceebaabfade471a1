"""`resnet_jax features RUN --stages stage3 pooled --out features`"""

from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from resnet_jax.commands.analysed import ITS_OWN, AnalysedData, bars, open_analysed
from resnet_jax.display import bytes_of, plain_console


def features(
    network: Positional[Annotated[str, tyro.conf.arg(metavar="[RUN]")]] = "",
    out: Path = Path("features"),
    stages: tuple[str, ...] = ("pooled",),
    split: str | None = None,
    maps: bool = False,
    dtype: Literal["float16", "float32"] = "float32",
    data: AnalysedData = ITS_OWN,
    weights: str | None = None,
    model: str | None = None,
    checkpoint: Literal["last", "best"] = "last",
    batch_size: int = 64,
    entry: str | None = None,
    prefix: str | None = None,
) -> None:
    """Keep what stages of a network put out for the images of a split: .npy files with a row for each image.

    The network is as in evaluation. A command that was stopped is continued by the same command. A folder that holds
    the same already is left as it is; one that holds anything else is refused.

    Args:
        network: The folder that `train.py --workdir` filled; a weight file; or the name of a network whose weights are
            published, such as resnet50 or resnet50:IMAGENET1K_V1.
        out: The folder for the arrays: STAGE.npy, label.npy and features.json, which says what they are.
        stages: What to keep: stem, stage1, stage2, ..., pooled, logits.
        split: The split; without it the one to evaluate on.
        maps: Keep whole maps (height, width, channels), not their means over space.
        dtype: Of the arrays.
        data: Whose images.
        weights: Instead of a run: a published set such as IMAGENET1K_V2 (with --model), a weight file, or a repository
            of the Hugging Face hub such as timm/resnet50.a1_in1k. Images are prepared as whoever published it says.
        model: The network that the weights are for; without it the one that a file's keys and shapes are those of.
        checkpoint: Of a run: the newest, or the one with the best top-1 accuracy.
        batch_size: Images that are computed together.
        entry: With --weights: which part of a training checkpoint to take, such as model_ema.
        prefix: With --weights: take the keys that begin with it, such as module.encoder_q., without it.
    """
    from resnet_jax.analysis.features import features as compute
    from resnet_jax.errors import ConfigError
    from resnet_jax.run.evaluate_network import all_of_a_folder
    from resnet_jax.runtime.programs import remember_programs

    if batch_size < 1:
        raise ConfigError(f"--batch-size = {batch_size} must be at least 1")
    remember_programs()
    found, config, run = open_analysed(network, weights, model, checkpoint, entry, prefix, data)
    config = config if run or split else all_of_a_folder(config)
    chosen = split or config.eval_split
    with bars() as progress:
        task = progress.add_task(chosen, total=None)
        kept = compute(
            *(found, config, chosen, stages, out),
            maps=maps,
            dtype=dtype,
            batch_size=batch_size,
            tell=lambda done, count: progress.update(task, completed=done, total=count),
        )
    console = plain_console()
    console.print(f"{found.title}, on {data.name or config.name} {chosen}: {len(kept.labels):,} images", soft_wrap=True)
    for stage in kept.stages:
        array = kept[stage]
        console.print(f"  {out / stage}.npy  {array.dtype} {array.shape}  {bytes_of(array.nbytes)}", soft_wrap=True)
