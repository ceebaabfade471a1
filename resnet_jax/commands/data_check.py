"""`resnet_jax data check NAME`"""

import sys
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tyro.conf import Positional

from resnet_jax.commands.box_info import boxes_in_words
from resnet_jax.commands.sheet import SHOWN as SHEET
from resnet_jax.commands.sheet import check_picture, cut, draw_grid, short
from resnet_jax.commands.video_info import lengths_in_words
from resnet_jax.display import plain_console

if TYPE_CHECKING:
    from resnet_jax.data.sources import Source

NO_OBJECTS = ("background", "N/A")  # classes that no box has
UNIONS = ("all", "trainval")  # the names of splits that hold other splits, as `digits` and Pascal VOC have them
SHOWN = 5  # lines of each kind of finding
_LETTERS = "trainest"  # of `train` and `test`: what is left of `test2` is the number of its division
PER_CLASS, SIDE = 4, 180  # images of a class on a sheet, at most; pixels of their sides


def data_check(
    name: Positional[str],
    directory: str | None = None,
    holdout: float = 0.0,
    few: int = 10,
    small: int = 64,
    exif: bool = False,
    sheet: Path | None = None,
    everything: bool = False,
) -> None:
    """Read every image of a data set before training, and report which are broken, odd, small, rare, or there twice.

    Masks are read too: their sizes must be those of their images, and their values those of the classes. So are boxes:
    they must have an area within their images, and a class. Videos are decoded from beginning to end.

    Ends with exit status 1 if an image cannot be read, or is in two splits.

    Args:
        name: As in a config: folder:PATH, pairs:PATH, voc:PATH, coco:PATH, voc_boxes:PATH, boxes:PATH, parquet:PATH,
            records:PATH, idx:PATH, npz:PATH, tfds:NAME, rec:PATH, verification:PATH, lfw:PATH, videos:PATH,
            ucf101:PATH, hmdb51:PATH, kinetics:PATH.
        directory: Where TFDS data lives; by default TFDS_DATA_DIR or ~/tensorflow_datasets.
        holdout: For a folder without splits: the share that is held out for evaluation.
        few: Classes with fewer images are named.
        small: Images whose shorter side has fewer pixels are counted.
        exif: Photographs are turned upright, as data.exif does in a config such as configs/photos.py.
        sheet: Also draw some images of each class, at most 100 in all, as this PNG.
        everything: Name all that was found, and not only the first five of each kind.
    """
    from resnet_jax.config import DataConfig
    from resnet_jax.data.check import Checked, check, has_boxes, has_masks, has_videos, in_both, in_several_classes
    from resnet_jax.data.sources import Compared, Source, list_splits, load_source
    from resnet_jax.data.sources.video_lists import OFFICIAL_SPLITS
    from resnet_jax.errors import DataError

    if sheet is not None:
        check_picture(sheet)
    config = DataConfig(name=name, directory=directory, holdout=holdout, exif=exif)
    say = partial(_say, shown=sys.maxsize if everything else SHOWN)

    def describe(found: Checked, source: Source) -> None:
        if found.broken:
            say(f"{len(found.broken)} cannot be read:", found.broken)
        if found.modes:
            say("of unusual kinds: " + ", ".join(f"{n} {mode}" for mode, n in found.modes.most_common()))
        if found.turned:
            how = "and shown upright" if exif else "which is ignored but with data.exif, as configs/photos.py has it"
            say(f"{found.turned} are turned by EXIF, {how}")
        if found.sizes:
            shorter = sorted(min(size) for size in found.sizes)
            tiny = sum(side < small for side in shorter)
            note = f"; {tiny} below {small}" if tiny else ""
            middle = shorter[len(shorter) // 2]
            if found.lengths:
                say(lengths_in_words(found.lengths))
            say(f"shorter side: {shorter[0]} to {shorter[-1]} pixels, half have at least {middle}{note}")
        if found.boxed:
            for line in boxes_in_words(found.boxed):
                say(line)
            if out := [f"{one.name}: {', '.join(one.out)}" for one in found.boxed if one.out]:
                say(f"in {len(out)} images boxes reach out by more than a pixel, and are cut off there:", out)
        for remark in getattr(source, "remarks", ()):
            say(f"{remark.text}{':' * bool(remark.items)}", list(remark.items))
        there = [label for label, name in enumerate(source.class_names) if not (found.boxed and name in NO_OBJECTS)]
        rare = sorted((found.per_class[label], label) for label in there if found.per_class[label] < few)
        if rare:
            say(
                f"{len(rare)} classes have fewer than {few} {what}:", [f"{source.class_names[i]}: {n}" for n, i in rare]
            )
        if found.repeated and not isinstance(source, Compared):  # an image may be in several pairs
            groups = [", ".join(name for name, _ in group) for group in found.repeated]
            say(f"{len(groups)} {what} are there more than once:", groups)
            if twice := in_several_classes(found):
                say(f"{len(twice)} of them in different classes:", [", ".join(names) for names in twice])

    names = list_splits(config)
    what = "videos" if names and has_videos(load_source(config, names[0])) else "images"
    if sheet is not None and names and any(has(load_source(config, names[0])) for has in (has_masks, has_boxes)):
        raise DataError(
            f"--sheet = {sheet} draws images by their labels, and {name} has none; leave it out, and draw them with: "
            f"python -m resnet_jax data show {name} --out {sheet}"
        )
    splits, bad = {}, False
    for split in names:
        source = load_source(config, split)
        found = splits[split] = check(source, exif=exif)
        say(f"{name}, split {split}: {found.count:,} {what} in {len(source.class_names):,} classes", indent="")
        describe(found, source)
        bad |= bool(found.broken) or any(remark.wrong for remark in getattr(source, "remarks", ()))
    if sheet is not None:
        split = config.train_split if config.train_split in splits else next(iter(splits))
        _draw(load_source(config, split), f"{name}, split {split}", exif, sheet)
    for first, second in combinations([split for split in splits if split not in UNIONS], 2):
        if set(splits) == set(OFFICIAL_SPLITS) and first.strip(_LETTERS) != second.strip(_LETTERS):
            continue  # another division of the same videos
        if both := sorted(in_both(splits[first], splits[second])):
            bad = True
            text = f"{len(both)} {what} are in both {first} and {second}; leave them out of one:"
            say(text, [f"{a} = {b}" for a, b in both], indent="")
    if bad:
        sys.exit(1)


def _draw(source: "Source", where: str, exif: bool, sheet: Path) -> None:
    """Some images of each class, as many of each as a sheet has room for, with their classes and files."""
    from resnet_jax.data.check import has_videos, samples
    from resnet_jax.errors import DataError

    count = len(source.class_names)
    shown = min(count, SHEET)
    found = samples(source, min(PER_CLASS, SHEET // shown), shown, SIDE, exif=exif)
    if not found:
        raise DataError(f"{where} holds no image that can be read, and nothing to draw; mend it, or leave out --sheet")
    captions = [f"{short(source.class_names[label])}\n{cut(file, 18)}" for _, label, file in found]
    classes = f"the first {shown} of its {count:,} classes" if shown < count else f"its {count} classes"
    what = "videos" if has_videos(source) else "images"
    notes = "turned upright as EXIF says" if exif else "EXIF's orientation is ignored"
    notes = "of each video the frame in the middle" if has_videos(source) else notes
    draw_grid([one.pixels / np.float32(255) for one in found], captions, f"{where}: {what} of {classes}", notes, sheet)
    _say(f"{len(found)} {what} of {classes} are drawn in {sheet}", indent="")


def _say(text: str, found: list[str] | None = None, indent: str = "  ", shown: int = SHOWN) -> None:
    lines = [f"  {line}" for line in (found or [])[:shown]]
    if found and len(found) > shown:
        lines.append(f"  and {len(found) - shown} more; --everything names all")
    plain_console().print("\n".join(indent + line for line in (text, *lines)), soft_wrap=True)
