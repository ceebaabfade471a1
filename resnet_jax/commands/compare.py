"""`python -m resnet_jax compare resnet50 vgg19`"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from resnet_jax.commands.sheet import check_picture
from resnet_jax.display import bytes_of, plain_console

if TYPE_CHECKING:
    from resnet_jax.peers.layers import Column
    from resnet_jax.peers.measure import Comparison

Engine = Literal["jax", "torch", "torch compiled"]
ENGINES: tuple[Engine, ...] = ("jax", "torch", "torch compiled")


def compare(
    networks: Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="NETWORK [NETWORK ...]")]] = (),
    engines: tuple[Engine, ...] = ENGINES,
    speed: bool = True,
    batch_size: int = 16,
    rounds: int = 5,
    figure3: bool = False,
    out: Path | None = None,
    as_json: bool = False,
) -> None:
    """Compare networks of this package, torchvision and timm: costs and accuracy, and speed on this machine.

    Parameters, multiply-accumulates (MACs) and activations are counted. Accuracy is as published. Speed and memory are
    measured here in float32, on one device, and all programs take turns; the medians are shown. This package's networks
    are run by JAX and by torch, those of others by torch, as it is and compiled.

    Args:
        networks: Names such as resnet50, vgg19 or convnext_tiny.fb_in1k. resnet50:IMAGENET1K_V1 names a set of weights;
            without it the accuracy of the library's best or usual set is shown. timm:vgg19 names the library.
        engines: What runs the networks.
        speed: Measure speed and memory; --no-speed counts alone and takes seconds.
        batch_size: Images that are computed together for images/s and memory.
        rounds: Turns of each program.
        figure3: Also show VGG-19 and the 34-layer plain and residual networks layer by layer, as in Figure 3 of the
            ResNet paper.
        out: A folder for compare.json, compare.csv and compare.png, and for figure3.json and figure3.png.
        as_json: Print one JSON object instead of tables.
    """
    from resnet_jax.errors import ConfigError
    from resnet_jax.files import explain_failed_write, write_atomically

    if not networks and not figure3:
        raise ConfigError("name the networks to compare, such as: compare resnet50 vgg19; or ask for --figure3")
    for option, value in (("--batch-size", batch_size), ("--rounds", rounds)):
        if value < 1:
            raise ConfigError(f"{option} = {value} must be at least 1")
    if out is not None:
        with explain_failed_write(out):
            out.mkdir(parents=True, exist_ok=True)
        check_picture(out / "compare.png")
    console = plain_console(stderr=as_json)
    facts: dict[str, Any] = {}
    if networks:
        from resnet_jax.peers.measure import compare as measure
        from resnet_jax.peers.picture import plot_costs

        found = measure(
            *(networks,),
            engines=engines if speed else (),
            batch_size=batch_size,
            rounds=rounds,
            tell=lambda text: console.print(f"... {text}"),
        )
        facts |= asdict(found)
        if not as_json:
            console.print("\n".join(_costs(found)), soft_wrap=True)
        if out is not None:
            write_atomically(out / "compare.json", json.dumps(asdict(found), indent=1) + "\n")
            write_atomically(out / "compare.csv", _as_csv(found))
            plot_costs(found, out / "compare.png")
    if figure3:
        from resnet_jax.peers.figure3 import plot_figure3
        from resnet_jax.peers.layers import figure3 as columns_of

        columns, problem = columns_of()
        facts["figure3"] = [asdict(column) for column in columns]
        if not as_json:
            console.print("\n".join(_layers(columns)), soft_wrap=True)
        if problem:
            console.print(f"Left out: {problem}.", soft_wrap=True)
        if out is not None:
            write_atomically(out / "figure3.json", json.dumps(facts["figure3"], indent=1) + "\n")
            plot_figure3(columns, out / "figure3.png")
    if as_json:
        print(json.dumps(facts))
    elif out is not None:
        console.print(f"Tables and pictures are in {out}", soft_wrap=True)


def _costs(found: "Comparison") -> list[str]:
    """The tables, and what must be known to read them."""
    head = ("network", "px", "parameters", "GMACs", "Mact", "top-1", "top-5", "weights")
    body = []
    for row in found.rows:
        accuracy = (f"{row.published.top1:.3f}", f"{row.published.top5:.3f}") if row.published else ("-", "-")
        counts = (f"{row.parameters:,}", f"{row.macs / 1e9:.3f}", f"{row.activations / 1e6:.1f}")
        weights = row.weights.removeprefix("IMAGENET1K_") or "-"
        body.append((row.word.partition(":IMAGENET1K")[0], str(row.image_size), *counts, *accuracy, weights))
    lines = _table(head, body, left={0, 7})
    by = {row.published.source for row in found.rows if row.published}
    sources = {"torchvision": "torchvision (its metadata)", "timm": "timm (results-imagenet.csv, 2025-10-30)"}
    if by:
        words = " and ".join(sources[one] for one in sorted(by))
        lines.append(f"top-1 and top-5 are % on ImageNet's validation images, as published by {words}.")
    lines.append("Mact: millions of numbers in the outputs of convolutions and products of matrices.")
    lines += [f"Left out: {word}: {why}." for word, why in found.left_out.items()]
    if any(row.speeds for row in found.rows):
        lines += ["", *_speeds(found)]
    return lines


def _speeds(found: "Comparison") -> list[str]:

    head = ("network", "run by", "ms, 1 image", f"images/s, {found.batch_size}", f"peak, {found.batch_size}", "first s")
    body, problems = [], []
    for row in found.rows:
        for one in row.speeds:
            if one.problem:
                problems.append(f"{row.word} is not run by {one.engine}: {one.problem}")
                continue
            assert one.latency is not None
            assert one.images_per_second is not None
            assert one.first_seconds is not None
            speeds = (f"{1e3 * one.latency:.1f}", f"{one.images_per_second:.1f}")
            memory = bytes_of(one.peak_bytes) if one.peak_bytes else "-"
            body.append((row.word, one.engine, *speeds, memory, f"{one.first_seconds:.1f}"))
    machine = found.machine
    versions = ", ".join(
        f"{name} {machine[name]}" for name in ("jax", "torch", "torchvision", "timm") if name in machine
    )
    devices = {one.device: None for row in found.rows for one in row.speeds if one.device}
    return [
        *_table(head, body, left={0, 1}),
        f"float32, medians of {found.rounds} turns, on {' and '.join(devices)} ({machine['cores']} cores); {versions}.",
        "first s: seconds to the first result of one image, with compilation.",
        *problems,
    ]


def _table(head: tuple[str, ...], body: Sequence[tuple[str, ...]], left: set[int]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    align = lambda place, text: f"{text:<{widths[place]}}" if place in left else f"{text:>{widths[place]}}"
    return ["  ".join(align(place, text) for place, text in enumerate(line)).rstrip() for line in (head, *body)]


def _as_csv(found: "Comparison") -> str:
    """A line for each network and engine."""
    text = io.StringIO()
    counts = ("word", "library", "weights", "image_size", "parameters", "macs", "activations")
    published = ("top1", "top5", "source")
    speeds = ("engine", "device", "latency", "images_per_second", "peak_bytes", "first_seconds", "problem")
    writer = csv.DictWriter(text, [*counts, *published, *speeds], lineterminator="\n")
    writer.writeheader()
    for row in asdict(found)["rows"]:
        own = {name: row[name] for name in counts} | (row["published"] or {})
        writer.writerows([own | speed for speed in row["speeds"]] or [own])
    return text.getvalue()


def _layers(columns: "list[Column]") -> list[str]:
    """The networks side by side, aligned where their outputs have the same size."""
    from resnet_jax.peers.layers import macs_text, rows_by_side

    body: list[tuple[str, ...]] = []
    for side in rows_by_side(columns):
        own = [[layer for layer in column.layers if layer.side == side] for column in columns]
        for place, layers in enumerate(zip_longest(*own)):
            cells = [(one.label, macs_text(one.macs) if one.macs else "") if one else ("", "") for one in layers]
            body.append(("" if place else str(side), *(text for cell in cells for text in cell)))
    body.append(("", *(text for column in columns for text in ("together", macs_text(column.macs)))))
    body.append(("", *(text for column in columns for text in ("the paper says", f"{column.published_gmacs} G"))))
    head = ("output", *(text for column in columns for text in (column.title, "MACs")))
    return _table(head, body, left={1 + 2 * place for place in range(len(columns))})
