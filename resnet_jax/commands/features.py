"""`resnet_jax features RUN --stages stage3 pooled --out features`"""

from pathlib import Path
from typing import Literal

from resnet_jax.commands.analysed import ITS_OWN, Which, bars, open_analysed, split_of
from resnet_jax.display import bytes_of, plain_console


def features(
    which: Which = ITS_OWN,
    out: Path = Path("features"),
    stages: tuple[str, ...] = ("pooled",),
    split: str | None = None,
    maps: bool = False,
    dtype: Literal["float16", "float32"] = "float32",
) -> None:
    """Keep what stages of a network put out for the images of a split: .npy files with a row for each image.

    The network is as in evaluation. A command that was stopped is continued by the same command. A folder that holds
    the same already is left as it is; one that holds anything else is refused.

    Args:
        out: The folder for the arrays: STAGE.npy, label.npy and features.json, which says what they are.
        stages: What to keep: stem, stage1, stage2, ..., pooled, logits.
        split: The split; without it the one to evaluate on.
        maps: Keep whole maps (height, width, channels), not their means over space.
        dtype: Of the arrays.
    """
    from resnet_jax.analysis.features import features as compute
    from resnet_jax.runtime.programs import remember_programs

    remember_programs()
    opened = open_analysed(which)
    network = opened.network
    config, chosen, shown = split_of(which, opened, split)
    with bars() as progress:
        task = progress.add_task(chosen, total=None)
        kept = compute(
            *(network, config, chosen, stages, out),
            maps=maps,
            dtype=dtype,
            batch_size=which.batch_size,
            tell=lambda done, count: progress.update(task, completed=done, total=count),
        )
    console = plain_console()
    console.print(f"{network.title}, on {shown}: {len(kept.labels):,} images", soft_wrap=True)
    for stage in kept.stages:
        array = kept[stage]
        console.print(f"  {out / stage}.npy  {array.dtype} {array.shape}  {bytes_of(array.nbytes)}", soft_wrap=True)
