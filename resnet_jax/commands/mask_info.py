"""What `data info` shows of a data set with masks."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.table import Table

from resnet_jax.display import distinct, plain_console

if TYPE_CHECKING:
    from resnet_jax.data.sources import Source

BAR = 30  # characters
MANY = 50  # classes; of more, only those with the most pixels are shown


def mask_info(name: str, sources: Mapping[str, "Source"], *, all_classes: bool, as_json: bool) -> None:
    """Prints the splits, and the images and the share of the pixels of each class. All masks are read.

    Raises:
      ImageError: a mask that cannot be read.
    """
    from resnet_jax.data.check import count_pixels

    counts = {split: count_pixels(source) for split, source in sources.items()}
    if as_json:
        report = {
            split: {
                "images": len(sources[split]),
                "classes": dict(zip(distinct(sources[split].class_names), found.images.tolist(), strict=True)),
                "pixels": dict(zip(distinct(sources[split].class_names), found.of_class.tolist(), strict=True)),
                "not_counted": found.not_counted,
            }
            for split, found in counts.items()
        }
        print(json.dumps({"name": name, "splits": report}))
        return
    console = plain_console()
    splits = Table(title=name)
    for heading in ("split", "images", "classes", "pixels not counted"):
        splits.add_column(heading, justify="left" if heading == "split" else "right")
    for split, found in counts.items():
        share = found.not_counted / max(found.not_counted + int(found.of_class.sum()), 1)
        splits.add_row(split, f"{len(sources[split]):,}", f"{len(found.images):,}", f"{100 * share:.1f} %")
    console.print(splits)
    for split, found in counts.items():
        names, total = sources[split].class_names, max(int(found.of_class.sum()), 1)
        shown = list(range(len(names)))
        if len(shown) > MANY and not all_classes:
            shown = sorted(sorted(shown, key=lambda i: -found.of_class[i])[:MANY])
        table = Table("class", "images", "pixels", "", title=f"{name}, split {split}", box=None)
        for i in shown:
            share = found.of_class[i] / total
            table.add_row(names[i], f"{found.images[i]:,}", f"{100 * share:.2f} %", "█" * round(BAR * share))
        console.print(table)
        if len(shown) < len(names):
            console.print(f"The {MANY} classes of {len(names)} with the most pixels; --all-classes shows all.")
