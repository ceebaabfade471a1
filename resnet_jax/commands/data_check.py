"""`resnet_jax data check NAME`"""

import sys
from itertools import combinations

from tyro.conf import Positional

from resnet_jax.display import plain_console

SHOWN = 5  # lines of each kind of finding


def data_check(
    name: Positional[str], directory: str | None = None, holdout: float = 0.0, few: int = 10, small: int = 64
) -> None:
    """Read every image of a data set before training, and report which are broken, odd, small, rare, or there twice.

    Ends with exit status 1 if an image cannot be read, or is in two splits.

    Args:
        name: As in a config: folder:PATH, parquet:PATH, records:PATH, npz:PATH, tfds:NAME.
        directory: Where TFDS data lives; by default TFDS_DATA_DIR or ~/tensorflow_datasets.
        holdout: For a folder without splits: the share that is held out for evaluation.
        few: Classes with fewer images are named.
        small: Images whose shorter side has fewer pixels are counted.
    """
    from resnet_jax.config import DataConfig
    from resnet_jax.data.check import Checked, check, in_both, in_several_classes
    from resnet_jax.data.sources import Source, list_splits, load_source

    config = DataConfig(name=name, directory=directory, holdout=holdout)

    def describe(found: Checked, source: Source) -> None:
        if found.broken:
            _say(f"{len(found.broken)} cannot be read:", found.broken)
        if found.modes:
            _say("of unusual kinds: " + ", ".join(f"{n} {mode}" for mode, n in found.modes.most_common()))
        if found.turned:
            _say(f"{found.turned} are turned by EXIF, which training and evaluation ignore")
        if found.sizes:
            shorter = sorted(min(size) for size in found.sizes)
            tiny = sum(side < small for side in shorter)
            note = f"; {tiny} below {small}" if tiny else ""
            middle = shorter[len(shorter) // 2]
            _say(f"shorter side: {shorter[0]} to {shorter[-1]} pixels, half have at least {middle}{note}")
        rare = sorted((n, label) for label, n in enumerate(found.per_class) if n < few)
        if rare:
            _say(
                f"{len(rare)} classes have fewer than {few} images:", [f"{source.class_names[i]}: {n}" for n, i in rare]
            )
        if found.repeated:
            groups = [", ".join(name for name, _ in group) for group in found.repeated]
            _say(f"{len(groups)} images are there more than once:", groups)
        if twice := in_several_classes(found):
            _say(f"{len(twice)} of them in different classes:", [", ".join(names) for names in twice])

    splits = {}
    for split in list_splits(config):
        source = load_source(config, split)
        found = splits[split] = check(source)
        _say(f"{name}, split {split}: {found.count:,} images in {len(source.class_names):,} classes", indent="")
        describe(found, source)
    bad = any(found.broken for found in splits.values())
    for first, second in combinations(splits, 2):
        if both := sorted(in_both(splits[first], splits[second])):
            bad = True
            what = f"{len(both)} images are in both {first} and {second}; leave them out of one:"
            _say(what, [f"{a} = {b}" for a, b in both], indent="")
    if bad:
        sys.exit(1)


def _say(text: str, found: list[str] | None = None, indent: str = "  ") -> None:
    lines = [f"  {line}" for line in (found or [])[:SHOWN]]
    if found and len(found) > SHOWN:
        lines.append(f"  and {len(found) - SHOWN} more")
    plain_console().print("\n".join(indent + line for line in (text, *lines)), soft_wrap=True)
