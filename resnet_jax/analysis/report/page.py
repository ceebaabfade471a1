"""A report as one HTML file. It holds its pictures, data and program in itself, and asks nothing of a network."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resnet_jax import __version__
from resnet_jax.analysis.attention.deletion import SHARE
from resnet_jax.analysis.attention.overlay import overlay
from resnet_jax.analysis.colours import DIFFERENT, look_of
from resnet_jax.analysis.report.facts import Facts, Mistake
from resnet_jax.analysis.report.pictures import columns_of, drawn, is_small, picture, sheets
from resnet_jax.tasks.classify.confusion import plot_confusion
from resnet_jax.tasks.classify.report import EvalReport

PAGE = Path(__file__).parent / "page"
TITLES = {"tsne": "t-SNE", "umap": "UMAP", "pca": "PCA"}


class ClassRow(NamedTuple):
    """A row of the table of classes. What no image decides is None."""

    name: str
    images: int
    recall: float | None
    precision: float | None
    taken_for: str
    taken_times: int


def render(facts: Facts, *, data: str, note: str, curves: str = "", environment: Mapping[str, str]) -> str:
    """The page.

    Args:
      data: the name of the split, for people.
      note: how images are prepared.
      curves: the curves of the run as a `data:` address; empty = there is no run.
      environment: what else is to be known, by name.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    pages = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    report = facts.verdicts.report if facts.verdicts else None
    return pages.get_template("page.html").render(
        title=facts.title,
        data=data,
        note=note[0].upper() + note[1:],
        count=facts.count,
        class_names=facts.class_names,
        looks=DIFFERENT,
        report=report,
        without_verdicts=facts.why_not,
        wrong=int(facts.count - np.trace(report.confusion)) if report else 0,
        map_text=_map_text(facts),
        numbers=facts.map.numbers,
        confusion=_confusion(facts, data) if report else "",
        classes=class_rows(report, facts.network_classes) if report else [],
        mistakes=[_card(one, facts) for one in facts.mistakes],
        mistakes_text=_mistakes_text(facts),
        pixelated="pixelated" if facts.mistakes and is_small(facts.mistakes[0].image[None]) else "",
        curves=curves,
        environment=[*environment.items(), ("made with", f"resnet_jax {__version__}")],
        json=Markup(_in_script(_points(facts))),
        css=Markup((PAGE / "page.css").read_text("utf-8")),
        js=Markup((PAGE / "page.js").read_text("utf-8")),
    )


def class_rows(report: EvalReport, names: Sequence[str]) -> list[ClassRow]:
    """The classes that occur, as true classes or as mistakes; the least recognised first."""
    confusion = report.confusion
    images, taken, right = confusion.sum(axis=1), confusion.sum(axis=0), np.diag(confusion)
    wrong = confusion - np.diag(right)
    rows = []
    for label in np.flatnonzero((images > 0) | (taken > 0)).tolist():
        other, times = int(np.argmax(wrong[label])), int(wrong[label].max())
        rows.append(
            ClassRow(
                name=names[label],
                images=int(images[label]),
                recall=float(right[label] / images[label]) if images[label] else None,
                precision=float(right[label] / taken[label]) if taken[label] else None,
                taken_for=f"{names[other]} ({times})" if times else "",
                taken_times=times,
            )
        )
    return sorted(rows, key=lambda row: 2.0 if row.recall is None else row.recall)


def _map_text(facts: Facts) -> str:
    here = facts.map
    number = (
        f"All {len(here.places):,} images"
        if len(here.places) == facts.count
        else (f"A sample of {len(here.places):,} of the {facts.count:,} images")
    )
    return f"{number}, put on a plane by {TITLES[here.method]} of the {here.features:,} features before the last layer."


def _mistakes_text(facts: Facts) -> str:
    if facts.said_fall is None or facts.verdicts is None:
        return ""
    before, without, elsewhere = (100 * float(np.mean(values)) for values in facts.said_fall)
    return (
        f"These are the {len(facts.mistakes)} mistakes to whose true class the network gives the least probability, "
        "the worst first. Beside each image: what speaks for the class that was said, and what speaks for the true "
        "class (Grad-CAM of the last stage; yellow is much). The class that was said has a probability of "
        f"{before:.0f} % in the mean. It is {without:.0f} % if the hottest {SHARE:.0%} of each image is covered, and "
        f"{elsewhere:.0f} % if as much is covered elsewhere."
    )


def _confusion(facts: Facts, data: str) -> str:
    assert facts.verdicts is not None
    report, names = facts.verdicts.report, facts.network_classes
    title = f"{facts.title}, on {data}: top-1 {report.top1:.2%}"
    return drawn(lambda path: plot_confusion(report, names, path, title))


def _card(one: Mistake, facts: Facts) -> dict[str, Any]:
    found = facts.verdicts
    assert found is not None
    lossless = is_small(one.image[None])
    for_said, for_true = overlay(np.stack([one.image] * 2), np.stack([one.for_said, one.for_true]))
    return {
        "place": one.place,
        "image": picture(one.image, lossless=lossless),
        "for_said": picture(for_said, lossless=lossless),
        "for_true": picture(for_true, lossless=lossless),
        "is": facts.network_classes[found.labels[one.place]],
        "said": facts.network_classes[found.predicted[one.place]],
        "probability": float(found.probability[one.place]),
        "confidence": float(found.confidence[one.place]),
    }


def _points(facts: Facts) -> dict[str, Any]:
    """What the page's program reads."""
    here, found = facts.map, facts.verdicts
    labels = here.labels if found is None else found.labels[here.places]
    names = facts.class_names if found is None else facts.network_classes
    said = np.full(len(labels), -1) if found is None else found.predicted[here.places]
    confidence = np.zeros(len(labels)) if found is None else found.confidence[here.places]
    return {
        "classes": [{"name": name, **look_of(label)._asdict()} for label, name in enumerate(names)],
        "side": here.images.shape[1],
        "columns": columns_of(len(here.images)),
        "sheets": sheets(here.images),
        "points": {
            "x": _short(here.coordinates[:, 0], 4),
            "y": _short(here.coordinates[:, 1], 4),
            "label": labels.tolist(),
            "said": said.tolist(),
            "confidence": _short(confidence, 4),
            "place": here.places.tolist(),
            "near": here.near.tolist(),
            "similar": [_short(row, 4) for row in here.similar],
        },
    }


def _short(values: np.ndarray, digits: int) -> list[float]:
    return np.asarray(values, np.float64).round(digits).tolist()


def _in_script(value: Any) -> str:
    """JSON that cannot end the script it stands in, or begin a comment, whatever names it holds."""
    return (
        json.dumps(value, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    )
