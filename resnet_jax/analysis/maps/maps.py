"""Maps of several stages of one or more networks, on the same images."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from resnet_jax.analysis.logistic import check_classes
from resnet_jax.analysis.maps.embed import PERPLEXITY, Method, check_count, check_method, embed, reduced
from resnet_jax.analysis.maps.numbers import Numbers, check_halves, measure
from resnet_jax.analysis.store import Features, check_belong
from resnet_jax.files import explain_failed_write, write_atomically

PICTURE, POINTS, NUMBERS = "map.png", "map.npz", "map.json"


@dataclass(frozen=True)
class Panel:
    """The map of one stage of one network.

    Attributes:
      network, stage: whose features.
      width: how many features there are of each image.
      reduced: to how many principal components they were reduced before all else; None = not at all.
      numbers: of the features (or the components), not of the map.
    """

    network: str
    stage: str
    width: int
    reduced: int | None
    points: Float[np.ndarray, "N 2"]
    numbers: Numbers


@dataclass(frozen=True)
class Maps:
    """Maps of the same images.

    Attributes:
      data: what the images are, for people.
      rows: the panels of each network, one for each stage.
      places: of the images in their split.
      split_size: how many images the split has; fewer are a sample.
    """

    data: str
    method: Method
    perplexity: float
    seed: int
    rows: tuple[tuple[Panel, ...], ...]
    labels: Int[np.ndarray, " N"]
    places: Int[np.ndarray, " N"]
    split_size: int
    class_names: tuple[str, ...]


def sample_of(labels: Int[np.ndarray, " N"], images: int | None, seed: int) -> Int[np.ndarray, " n"]:
    """The places of a random sample, in order, or of all."""
    if images is None or images >= len(labels):
        return np.arange(len(labels))
    return np.sort(np.random.default_rng(seed).choice(len(labels), images, replace=False))


def make_maps(
    networks: Sequence[tuple[str, Features]],
    stages: Sequence[str],
    method: Method = "tsne",
    *,
    data: str = "",
    images: int | None = None,
    perplexity: float = PERPLEXITY,
    seed: int = 0,
    tell: Callable[[int, int], None] = lambda done, count: None,
) -> Maps:
    """Maps features of one or more networks, and measures them.

    Args:
      networks: titles and features, all of the same images.
      images: how many to take, drawn by lot; None = all.
      seed: of the sample, the maps and the numbers.
      tell: is told of progress: panels that are done, of how many.

    Raises:
      ConfigError: a stage that is not there, or the library of the method is not installed.
      DataError: features of different images, too few or too many images, or images of one class.
    """
    first = networks[0][1]
    for _, other in networks[1:]:
        check_belong(first, other, ("data", "kind_of_features"))
    labels = first.labels
    places = sample_of(labels, images, seed)
    check_possible(labels[places], method, perplexity)
    rows: list[tuple[Panel, ...]] = []
    for title, features in networks:
        panels: list[Panel] = []
        for stage in stages:
            tell(len(rows) * len(stages) + len(panels), len(networks) * len(stages))
            array = features[stage]
            width = int(np.prod(array.shape[1:]))
            chosen = reduced(array if len(places) == len(labels) else array[places], seed)
            panels.append(
                Panel(
                    network=title,
                    stage=stage,
                    width=width,
                    reduced=chosen.shape[1] if chosen.shape[1] < width else None,
                    points=embed(chosen, method, perplexity=perplexity, seed=seed),
                    numbers=measure(chosen, labels[places], seed),
                )
            )
        rows.append(tuple(panels))
    total = len(networks) * len(stages)
    tell(total, total)
    return Maps(*(data, method, perplexity, seed, tuple(rows), labels[places], places, len(labels), first.class_names))


def check_possible(labels: Int[np.ndarray, " N"], method: Method, perplexity: float) -> None:
    """Raises where images with these labels cannot be mapped and measured, as `make_maps` would: before the work."""
    check_method(method)
    check_count(len(labels), method, perplexity)
    check_classes(labels)
    check_halves(labels)


def save_points(maps: Maps, folder: Path) -> None:
    """Writes the points as `map.npz` and the numbers as `map.json`.

    In `map.npz` the points of panel `STAGE` of network 0 are `0/STAGE`. `label` and `place` say which image a row is.
    """
    arrays: dict[str, Any] = {"label": maps.labels, "place": maps.places, "class_names": list(maps.class_names)}
    for row, panels in enumerate(maps.rows):
        arrays |= {f"{row}/{panel.stage}": panel.points for panel in panels}
    with explain_failed_write(folder):
        np.savez(folder / POINTS, **arrays)
    write_atomically(folder / NUMBERS, json.dumps(as_json(maps), indent=1))


def as_json(maps: Maps) -> Mapping[str, Any]:
    """What was measured, without the points."""
    return {
        **{name: getattr(maps, name) for name in ("data", "method", "perplexity", "seed", "split_size")},
        "images": len(maps.labels),
        "networks": [
            {
                "title": panels[0].network,
                "stages": [
                    {name: getattr(panel, name) for name in ("stage", "width", "reduced")}
                    | {
                        key: value if np.isfinite(value) else None
                        for key, value in dataclasses.asdict(panel.numbers).items()
                    }
                    for panel in panels
                ],
            }
            for panels in maps.rows
        ],
    }
