"""`python -m resnet_jax data info NAME`"""

import json

from rich.table import Table
from tyro.conf import Positional

from resnet_jax.display import distinct, plain_console

BAR = 40  # characters


def data_info(name: Positional[str], directory: str | None = None, as_json: bool = False) -> None:
    """Show the splits of a data set, their sizes, and how many images each class has.

    Args:
        name: As in a config: digits, folder:PATH, tfds:NAME, parquet:PATH, records:PATH, npz:PATH.
        directory: Where TFDS data lives; by default TFDS_DATA_DIR or ~/tensorflow_datasets.
        as_json: Print one JSON object instead of tables.
    """
    import numpy as np

    from resnet_jax.config import DataConfig
    from resnet_jax.data.sources import list_splits, load_source

    counts = {}
    config = DataConfig(name=name, directory=directory)
    for split in list_splits(config):
        source = load_source(config, split)
        histogram = np.bincount(source.labels(), minlength=len(source.class_names))
        counts[split] = dict(zip(distinct(source.class_names), histogram.tolist(), strict=True))
    if as_json:
        report = {split: {"images": sum(classes.values()), "classes": classes} for split, classes in counts.items()}
        print(json.dumps({"name": name, "splits": report}))
        return
    console = plain_console()
    splits = Table(title=name)
    for heading in ("split", "images", "classes", "fewest in a class", "most in a class"):
        splits.add_column(heading, justify="left" if heading == "split" else "right")
    for split, classes in counts.items():
        numbers = [sum(classes.values()), len(classes), min(classes.values()), max(classes.values())]
        splits.add_row(split, *(f"{number:,}" for number in numbers))
    console.print(splits)
    for split, classes in counts.items():
        histogram_table = Table("class", "images", "", title=f"{name}, split {split}", box=None)
        most = max(classes.values())
        for label, number in classes.items():
            histogram_table.add_row(label, f"{number:,}", "█" * round(BAR * number / max(most, 1)))
        console.print(histogram_table)
