"""`python -m resnet_jax data info NAME`"""

import json

from rich.table import Table
from tyro.conf import Positional

from resnet_jax.commands.box_info import box_info
from resnet_jax.commands.mask_info import mask_info
from resnet_jax.commands.video_info import sample_in_words
from resnet_jax.display import distinct, plain_console

BAR = 40  # characters
MANY, FEW = 50, 10  # with more than MANY classes, only FEW at either end are shown


def data_info(
    name: Positional[str], directory: str | None = None, all_classes: bool = False, as_json: bool = False
) -> None:
    """Show the splits of a data set, their sizes, and how many images or videos each class has.

    Where a mask says the class of each pixel, all masks are read, and the classes' shares of the pixels are shown too;
    of more than 50 classes, those with the most pixels.

    Where boxes say which objects an image shows, the objects of each class are counted; of more than 50 classes, those
    with the most are shown.

    Of videos, the lengths of 64 of each split are shown too.

    Of a set of pairs, the classes are its pairs of one identity, `same`, and the others.

    Otherwise, of more than 50 classes, the ten with the fewest and the ten with the most images are shown.

    Args:
        name: As in a config: digits, folder:PATH, tfds:NAME, parquet:PATH, records:PATH, idx:PATH, npz:PATH,
            pairs:PATH, voc:PATH, coco:PATH, voc_boxes:PATH, boxes:PATH, rec:PATH, verification:PATH, lfw:PATH,
            videos:PATH, ucf101:PATH, hmdb51:PATH, kinetics:PATH.
        directory: Where TFDS data lives; by default TFDS_DATA_DIR or ~/tensorflow_datasets.
        all_classes: Show every class, however many there are.
        as_json: Print one JSON object instead of tables.
    """
    import numpy as np

    from resnet_jax.config import DataConfig
    from resnet_jax.data.check import classes_of, has_boxes, has_masks, has_videos
    from resnet_jax.data.sources import list_splits, load_source

    config = DataConfig(name=name, directory=directory)
    sources = {split: load_source(config, split) for split in list_splits(config)}
    masked, boxed = (any(map(has, sources.values())) for has in (has_masks, has_boxes))
    if masked:
        mask_info(name, sources, all_classes=all_classes, as_json=as_json)
    if boxed and not (masked and as_json):
        box_info(name, sources, all_classes=all_classes, as_json=as_json)
    if masked or boxed:
        return
    counts = {}
    for split, source in sources.items():
        histogram = np.bincount(classes_of(source), minlength=len(source.class_names))
        counts[split] = dict(zip(distinct(source.class_names), histogram.tolist(), strict=True))
    what = "videos" if any(map(has_videos, sources.values())) else "images"
    if as_json:
        report = {split: {what: sum(classes.values()), "classes": classes} for split, classes in counts.items()}
        print(json.dumps({"name": name, "splits": report}))
        return
    console = plain_console()
    splits = Table(title=name)
    for heading in ("split", what, "classes", "fewest in a class", "most in a class"):
        splits.add_column(heading, justify="left" if heading == "split" else "right")
    for split, classes in counts.items():
        numbers = [sum(classes.values()), len(classes), min(classes.values()), max(classes.values())]
        splits.add_row(split, *(f"{number:,}" for number in numbers))
    console.print(splits)
    if what == "videos":
        for split, source in sources.items():
            console.print(f"{split}: {sample_in_words(source)}")
    for split, classes in counts.items():
        histogram_table = Table("class", what, "", title=f"{name}, split {split}", box=None)
        most = max(classes.values())
        shown, left_out = dict(classes), 0
        if len(classes) > MANY and not all_classes:
            ordered = sorted(classes, key=classes.__getitem__)
            shown = {label: classes[label] for label in [*ordered[:FEW], *ordered[-FEW:]]}
            left_out = len(classes) - len(shown)
        for place, (label, number) in enumerate(shown.items()):
            if left_out and place == FEW:
                histogram_table.add_row(f"... {left_out:,} classes with {shown_range(classes, shown)} ...", "", "")
            histogram_table.add_row(label, f"{number:,}", "█" * round(BAR * number / max(most, 1)))
        console.print(histogram_table)
        if left_out:
            console.print(f"The classes with fewest and most {what} of {len(classes):,}; --all-classes shows all.")


def shown_range(classes: dict[str, int], shown: dict[str, int]) -> str:
    """How many images the classes have that are not shown, as a range."""
    others = [number for label, number in classes.items() if label not in shown]
    return f"{min(others):,}" if min(others) == max(others) else f"{min(others):,} to {max(others):,}"
