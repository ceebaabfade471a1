"""`resnet_jax anomalies score RUN --detector detector --data.name folder:bottle`"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rich.table import Table

from resnet_jax.commands.analysed import ITS_OWN, Analysed, Opened, Which, bars, open_analysed, split_of
from resnet_jax.commands.anomalies_fit import source_of
from resnet_jax.commands.heat_sheet import draw_heat
from resnet_jax.commands.seen import NO_FILES, ImageFiles, first_word_is_an_image
from resnet_jax.commands.sheet import SHOWN, check_picture, cut
from resnet_jax.display import plain_console

if TYPE_CHECKING:
    from resnet_jax.analysis.anomalies.detector import Scores
    from resnet_jax.analysis.anomalies.patches import Batches

HOTTEST = 99.0  # percentile of the distances that are drawn from which all have one colour; one image may have far more


def anomalies_score(
    which: Which = ITS_OWN,
    files: ImageFiles = NO_FILES,
    detector: Path = Path("detector"),
    out: Path = Path("anomalies.png"),
    split: str | None = None,
    images: int = 12,
    neighbours: int = 0,
    as_json: bool = False,
) -> None:
    """Score how far images are from the good ones that a detector keeps, and draw where.

    For a data set whose classes are known, the AUROC says how often an anomaly has a higher score than a good image.
    With masks in the layout of MVTec AD (ground_truth/DEFECT/NAME_mask.png) there is an AUROC of pixels too.

    Args:
        detector: The folder that `anomalies fit` has written, with the same network.
        out: The PNG to write: images from the most to the least anomalous, each with its heat map.
        split: Of the data set; without it the split to evaluate on.
        images: How many images to draw.
        neighbours: Make the score of an image smaller where as many patches of the bank around the nearest are not much
            farther (the paper's equation 7); 0 = not.
        as_json: Print one JSON object with the score of every image.
    """
    from resnet_jax.analysis.anomalies.detector import heat_of, open_detector, score
    from resnet_jax.analysis.anomalies.measure import auroc
    from resnet_jax.errors import ConfigError
    from resnet_jax.runtime.programs import remember_programs

    which, words = first_word_is_an_image(which, files)
    if words and (which.data.name or split):
        raise ConfigError("images come from files or from a data set; name only one of them")
    if not 1 <= images <= SHOWN or neighbours < 0:
        raise ConfigError(
            f"--images {images} must be 1 to {SHOWN}, and --neighbours {neighbours} at least 0; 2 or more weigh"
        )
    check_picture(out)
    remember_programs()
    opened = open_analysed(which, data_needed=not words)
    preset = dataclasses.replace(opened.network.preset, exif=opened.data.exif)
    found = open_detector(detector, opened.network, preset)
    scored = _files(opened, words, which.batch_size) if words else _split(which, opened, split, found.good)
    with bars() as progress:
        task = progress.add_task("images", total=len(scored.names))

        def counted() -> Iterator[np.ndarray]:
            for batch in scored.batches():
                yield batch
                progress.advance(task, len(batch))

        scores = score(found, opened.network, counted, neighbours=neighbours)
    numbers: dict[str, float | None] = {"image_auroc": None, "pixel_auroc": None}
    if scored.anomalous is not None:
        numbers["image_auroc"] = auroc(scored.anomalous, scores.images)
        if scored.masks is not None and found.has_maps:
            heat = heat_of(scores.maps, preset.crop)
            numbers["pixel_auroc"] = auroc(scored.masks.ravel(), heat.ravel(), "pixels")
    words_for = _in_words(scored, scores, numbers)
    title = f"{opened.network.title}, on {scored.of}"
    _draw(scored, scores, min(images, len(scored.names)), found.has_maps, title, words_for, out)
    if as_json:
        listed = [
            {"image": name, "truth": truth or None, "score": round(float(value), 6)}
            for name, truth, value in zip(scored.names, scored.truths, scores.images, strict=True)
        ]
        print(json.dumps({**numbers, "images": listed}))
        return
    console = plain_console()
    console.print(title, soft_wrap=True)
    console.print(words_for, soft_wrap=True)
    if words:
        table = Table("image")
        table.add_column("score", justify="right")
        for name, value in zip(scored.names, scores.images, strict=True):
            table.add_row(name, f"{value:.3g}")
        console.print(table)
    console.print(f"The picture is in {out}", soft_wrap=True)


class Scored(NamedTuple):
    """Images to score.

    Attributes:
      batches: all of them.
      pixels: those at some places.
      anomalous: which are; None where nobody knows.
      masks: which of their pixels are; None where there are no masks.
    """

    batches: "Batches"
    pixels: Callable[[np.ndarray], np.ndarray]
    names: Sequence[str]
    truths: Sequence[str]
    anomalous: np.ndarray | None
    masks: np.ndarray | None
    of: str


def _files(opened: Opened, words: tuple[str, ...], size: int) -> Scored:
    from resnet_jax.data import load_image
    from resnet_jax.run.predictor import expand

    paths = expand(words)
    preset = dataclasses.replace(opened.network.preset, exif=opened.data.exif)

    def pixels(places: Iterable[int]) -> np.ndarray:
        return np.stack([load_image(paths[place], preset) for place in places])

    def batches() -> Iterator[np.ndarray]:
        every = range(len(paths))
        return (pixels(every[start : start + size]) for start in every[::size])

    names = [path.name for path in paths]
    return Scored(batches, pixels, names, [""] * len(paths), None, None, f"{len(paths):,} image files")


def _split(which: Analysed, opened: Opened, split: str | None, good: str) -> Scored:
    """All images of a split, whose anomalies are those of other classes than the good one."""
    from resnet_jax.analysis.anomalies.measure import check_both, masks_of
    from resnet_jax.analysis.anomalies.patches import batches_of
    from resnet_jax.analysis.images import images_of
    from resnet_jax.errors import DataError

    config, chosen, shown = split_of(which, opened, split)
    source = source_of(config, chosen)
    if not len(source):
        raise DataError(f"{shown} holds no image; choose another split")
    if good not in source.class_names:
        known = ", ".join(source.class_names[:5])
        raise DataError(
            f"{shown} has no class {good!r}, which the detector's good images are of; it has {known}. Name a split "
            "that has it, or image files"
        )
    preset = dataclasses.replace(opened.network.preset, exif=config.exif)
    labels = source.labels()
    anomalous = labels != source.class_names.index(good)
    check_both(anomalous, "images")
    masks, names = None, [f"image {row}" for row in range(len(source))]
    if config.name.startswith("folder:") and not config.holdout:
        paths = [source[row]["name"] for row in range(len(source))]
        root = Path(config.name.partition(":")[2]).expanduser()
        masks = masks_of(root, chosen, paths, anomalous, preset)
        names = ["/".join(Path(path).parts[-2:]) for path in paths]
    truths = [source.class_names[label] for label in labels]
    batches = batches_of(source, preset, range(len(source)), which.batch_size)
    return Scored(batches, lambda places: images_of(source, preset, places), names, truths, anomalous, masks, shown)


def _in_words(scored: Scored, scores: "Scores", numbers: dict[str, float | None]) -> str:
    if scored.anomalous is None:
        return (
            f"Scores (distance to the nearest good patch) from {scores.images.min():.3g} to {scores.images.max():.3g}"
        )
    good, bad = scores.images[~scored.anomalous], scores.images[scored.anomalous]
    text = (
        f"AUROC of images: {numbers['image_auroc']:.3f}. Mean score of {len(good):,} good ones {good.mean():.3g}, of "
        f"{len(bad):,} others {bad.mean():.3g}"
    )
    return text if numbers["pixel_auroc"] is None else f"{text}\nAUROC of pixels: {numbers['pixel_auroc']:.3f}"


def _draw(scored: Scored, scores: "Scores", count: int, has_maps: bool, title: str, words: str, out: Path) -> None:
    """Images at equal steps through the order of their scores, the most anomalous first."""
    from resnet_jax.analysis.anomalies.detector import heat_of
    from resnet_jax.analysis.attention.overlay import overlay

    order = np.argsort(-scores.images, kind="stable")
    places = order[np.linspace(0, len(order) - 1, count).round().astype(int)]
    pixels = scored.pixels(places)
    side = pixels.shape[1]
    heat = heat_of(scores.maps[places], side)
    low, high = np.percentile(heat, (0, HOTTEST))
    panels = [[image] for image in pixels]
    if has_maps:
        for panel, over in zip(
            panels, overlay(pixels, np.minimum((heat - low) / max(high - low, 1e-12), 1)), strict=True
        ):
            panel.append(over)
    if scored.masks is not None:
        for panel, place in zip(panels, places, strict=True):
            panel.append(np.uint8(255) * scored.masks[place][..., None])
    captions = [
        f"{cut(scored.names[place], 20 * len(panels[0]))}\n"
        + (f"{cut(scored.truths[place], 14 * len(panels[0]))}: " if scored.truths[place] else "score: ")
        + f"{scores.images[place]:.3g}"
        for place in places
    ]
    shown = "all images" if count == len(order) else f"{count} of {len(order):,} images"
    note = f"{words}\n{shown[0].upper()}{shown[1:]}, the most anomalous first"
    if scored.masks is not None:
        note += "; on the right the mask: which pixels are anomalous"
    ends = (f"distance {low:.3g}", f"{high:.3g} and more") if has_maps else None
    draw_heat(panels, captions, title, note, ends, out)
