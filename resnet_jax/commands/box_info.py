"""What `data info` and `data check` show of a data set with boxes."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from resnet_jax.display import distinct, plain_console

if TYPE_CHECKING:
    from resnet_jax.data.box_survey import Boxed
    from resnet_jax.data.sources import Source

BAR = 30  # characters
MANY = 50  # classes; of more, only those with the most objects are shown


def box_info(name: str, sources: Mapping[str, "Source"], *, all_classes: bool, as_json: bool) -> None:
    """Prints the splits, and the images and the objects of each class. Annotations are read, and no images where the
    data set has them in files of their own."""
    from resnet_jax.data.box_survey import count_boxes

    counts = {split: count_boxes(source) for split, source in sources.items()}
    if as_json:
        report = {
            split: {
                "images": len(sources[split]),
                "objects": int(found.of_class.sum()),
                "crowds": found.crowds,
                "most_in_an_image": int(found.in_image.max(initial=0)),
                "without_objects": int((found.in_image == 0).sum()),
                "cannot_be_used": found.broken,
                "classes": dict(
                    zip(distinct(sources[split].class_names)[1:], found.of_class.tolist()[1:], strict=True)
                ),
            }
            for split, found in counts.items()
        }
        print(json.dumps({"name": name, "splits": report}))
        return
    console = plain_console()
    splits = Table(title=f"{name}: objects")
    for heading in ("split", "images", "objects", "crowds", "classes", "most in an image", "images without"):
        splits.add_column(heading, justify="left" if heading == "split" else "right")
    for split, found in counts.items():
        most, without = found.in_image.max(initial=0), (found.in_image == 0).sum()
        numbers = (len(sources[split]), found.of_class.sum(), found.crowds, (found.of_class > 0).sum(), most, without)
        splits.add_row(split, *(f"{number:,}" for number in numbers))
    console.print(splits)
    for split, found in counts.items():
        if found.broken:
            text = f"{split}: {found.broken} images have annotations that cannot be used; see data check {name}"
            console.print(text, soft_wrap=True)
    for split, found in counts.items():
        names, most = sources[split].class_names, max(int(found.of_class.max(initial=0)), 1)
        there = [label for label in range(1, len(names)) if found.of_class[label]]
        shown = there
        if len(there) > MANY and not all_classes:
            shown = sorted(sorted(there, key=lambda label: -found.of_class[label])[:MANY])
        table = Table("class", "images", "objects", "", title=f"{name}, split {split}", box=None)
        for label in shown:
            bar = "█" * round(BAR * found.of_class[label] / most)
            table.add_row(names[label], f"{found.images[label]:,}", f"{found.of_class[label]:,}", bar)
        console.print(table)
        if len(shown) < len(there):
            console.print(f"The {MANY} classes of {len(there)} with the most objects; --all-classes shows all.")


def boxes_in_words(boxed: "Sequence[Boxed]") -> list[str]:
    """What is to be said of the images with boxes that were read, one thought a line."""
    counts = np.array([one.objects for one in boxed])
    most = boxed[int(counts.argmax())]
    lines = [f"{counts.sum():,} objects, at most {most.objects} in an image ({most.name})"]
    if without := int((counts == 0).sum()):
        lines.append(f"{without} images show no object; they are trained on as they are")
    if crowds := sum(one.crowds for one in boxed):
        lines.append(f"{crowds} crowds or difficult objects, which are neither trained on nor judged")
    return lines
