"""`resnet_jax anomalies fit RUN --data.name folder:bottle --out detector`"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_jax.commands.analysed import ITS_OWN, Which, bars, open_analysed
from resnet_jax.config import DataConfig
from resnet_jax.display import bytes_of, plain_console

if TYPE_CHECKING:
    from resnet_jax.data import Source

GOOD = "good"  # the class of good images in the layout of MVTec AD


def anomalies_fit(
    which: Which = ITS_OWN,
    out: Path = Path("detector"),
    good: str | None = None,
    split: str | None = None,
    stages: tuple[str, ...] = (),
    share: float = 0.1,
    seed: int = 0,
) -> None:
    """Learn what good images look like: keep patches of them in a memory bank (PatchCore). Nothing is trained.

    The network is as in evaluation. `anomalies score` then says how far other images are from the good ones.

    Args:
        out: The folder for the detector. One that is there is replaced.
        good: The class of good images; without it the class called good, or the only one.
        split: The split that holds them; without it the split to train on.
        stages: Whose maps are compared; without it the middle ones. "pooled" alone compares whole images.
        share: Of the patches that are kept.
        seed: Of the random projection in which patches are compared to choose among them.
    """
    from resnet_jax.analysis.anomalies.detector import check_fit, check_place, fit, save
    from resnet_jax.analysis.anomalies.patches import batches_of
    from resnet_jax.runtime.programs import remember_programs

    check_place(out)
    remember_programs()
    opened = open_analysed(which)
    network, config = opened.network, opened.data
    check_fit(network, stages, share)
    source = source_of(config, split or config.train_split)
    name = good_class(source.class_names, good)
    places = np.flatnonzero(source.labels() == source.class_names.index(name))
    preset = dataclasses.replace(network.preset, exif=config.exif)
    with bars() as progress:
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, count: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=count)
            progress.update(tasks[what], completed=done)

        detector = fit(
            *(network, preset, batches_of(source, preset, places, which.batch_size), len(places)),
            good=name,
            stages=stages,
            share=share,
            seed=seed,
            tell=tell,
        )
    save(detector, out)
    rows, features = detector.bank.shape
    plain_console().print(
        f"{network.title}, {' and '.join(detector.stages)}: {rows:,} patches of {features:,} numbers "
        f"({bytes_of(detector.bank.nbytes)}) of {len(places):,} images of {name!r} are kept in {out}",
        soft_wrap=True,
    )


def source_of(config: DataConfig, split: str) -> "Source":
    """A split whose classes need not be those of other splits: the good ones stand alone in MVTec AD's `train`.

    Raises:
      ConfigError: data without images in classes.
      DataError: the split cannot be read.
    """
    from resnet_jax import data
    from resnet_jax.data.fills import EvalImage
    from resnet_jax.errors import ConfigError

    alone = config if config.holdout else dataclasses.replace(config, train_split=split, eval_split=split)
    source = data.load_source(alone, split)
    if text := data.missing_leaves(source, EvalImage.needs, "a detector of anomalies", f"data.name = {config.name}"):
        raise ConfigError(text)
    return source


def good_class(class_names: Sequence[str], named: str | None) -> str:
    """The class of good images.

    Raises:
      ConfigError: there is no such class, or nobody says which it is.
    """
    from resnet_jax.errors import ConfigError, unknown_name

    if named is not None:
        if named not in class_names:
            raise ConfigError(unknown_name("class", named, class_names))
        return named
    if GOOD in class_names or len(class_names) == 1:
        return GOOD if GOOD in class_names else class_names[0]
    shown = f"{', '.join(class_names[:5])}{', ...' * (len(class_names) > 5)}"
    raise ConfigError(f"nobody says which of the classes {shown} holds the good images; name it: --good CLASS")
