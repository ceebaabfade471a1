"""`python -m resnet_jax quantize RUN_OR_WEIGHTS --out DIR`"""

import dataclasses
import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.table import Table

from resnet_jax.commands.analysed import ITS_OWN, Which, open_analysed, split_of
from resnet_jax.config import DataConfig, QuantizeConfig
from resnet_jax.display import bytes_of, plain_console

if TYPE_CHECKING:
    from resnet_jax.run.network import Network

SENSITIVITY_IMAGES = 256
AS_USUAL = QuantizeConfig()
PICTURE, NUMBERS = "sensitivity.png", "quantize.json"
How = Annotated[QuantizeConfig, tyro.conf.arg(name="")]
"""Its options stand beside the command's own."""


def quantize(
    which: Which = ITS_OWN,
    how: How = AS_USUAL,
    *,
    out: Path,
    images: int = 512,
    sensitivity: bool = False,
    as_json: bool = False,
) -> None:
    """Quantise a trained run or weights to int8, and evaluate both side by side on the split to evaluate on.

    Kernels get one scale for each output channel, activations one for a tensor, whose range is found on images of the
    training split. Additions, the first and the last layer are quantised too. The folder gets the quantised network and
    quantize.json with the numbers; export --int8 --quantized FOLDER writes it as ONNX.

    Args:
        out: A new folder.
        images: How many images of the training split calibrate.
        sensitivity: Also quantise each layer alone, and draw which one costs how much: sensitivity.png.
        as_json: Print one JSON object instead of tables.
    """
    from flax.traverse_util import flatten_dict

    from resnet_jax.compress.quantize.calibrate import quantize as quantize_all
    from resnet_jax.compress.quantize.network import bytes_of_arrays
    from resnet_jax.compress.quantize.sensitivity import sensitivity as measure
    from resnet_jax.compress.quantize.store import FILE, save
    from resnet_jax.errors import ConfigError
    from resnet_jax.export.job import check_out, new_folder
    from resnet_jax.run.calibrate import calibration
    from resnet_jax.run.named import embeds, segments
    from resnet_jax.runtime.programs import remember_programs

    check_out(out)
    remember_programs()
    opened = open_analysed(which, classifies=False)
    network = opened.network
    if embeds(network):
        raise ConfigError(
            f"{network.title} gives embeddings and names no class, by which quantize says how right the integers are; "
            "export RUN --format onnx --int8 writes them, and resnet_jax.compress.quantize gives them in Python"
        )
    config, chosen, shown = split_of(which, opened, None)
    batches, calibrated = calibration(network, config, how, count=images, batch_size=which.batch_size)
    done = quantize_all(network.model, network.variables, batches, how)
    smaller = dataclasses.replace(network, model=done.model, variables=done.variables)
    config, masks = dataclasses.replace(config, eval_split=chosen), segments(network)
    numbers = {
        kind: {**_evaluated(one, config, which.batch_size, masks=masks), "bytes": bytes_of_arrays(variables)}
        for kind, one, variables in (
            ("float", network, done.float.variables),
            (f"int{how.weight_bits}", smaller, done.variables),
        )
    }
    kernels = [path for path in flatten_dict(done.float.variables["params"]) if path[-1] == "kernel"]
    counts = {"quantized": len(done.scales.kernels), "float": len(kernels) - len(done.scales.kernels)}
    few = list(islice(batches(), -(-SENSITIVITY_IMAGES // which.batch_size))) if sensitivity else []
    costs = measure(done, few) if few else []
    facts: dict[str, Any] = {
        "network": network.title,
        "calibration": calibrated,
        "evaluated on": shown,
        "kernels": counts,
        **numbers,
        **({"sensitivity": [cost._asdict() for cost in costs]} if costs else {}),
    }
    with new_folder(out) as folder:
        save(folder / FILE, done, calibrated)
        (folder / NUMBERS).write_text(json.dumps(facts, indent=2) + "\n")
        if costs:
            from resnet_jax.commands.draw_sensitivity import draw_sensitivity

            title = f"{network.title}: what it costs to quantise a layer"
            draw_sensitivity(costs, title, sum(map(len, few)), folder / PICTURE)
    if as_json:
        print(json.dumps(facts))
        return
    console = plain_console()
    console.print(_table(f"{network.title}, on {shown}", numbers))
    console.print(f"kernels: {counts['quantized']} quantised, {counts['float']} in floating point")
    for cost in sorted(costs, key=lambda cost: -cost.error)[:6]:
        console.print(f"{cost.name}: error {cost.error:.2%}, {cost.changed:.2%} of the images get another class")
    console.print(f"{out} holds the quantised network", soft_wrap=True)


def _evaluated(network: "Network", config: DataConfig, batch_size: int, *, masks: bool) -> dict[str, float]:
    from resnet_jax.run.evaluate_network import evaluate_masks, evaluate_network

    if masks:
        numbers = evaluate_masks(network, config, batch_size)
        return {name: numbers[name] for name in ("miou", "pixel_accuracy", "loss", "count")}
    report = evaluate_network(network, config, batch_size)
    return {name: getattr(report, name) for name in ("top1", "top5", "loss", "count")}


def _table(title: str, numbers: dict[str, dict[str, float]]) -> Table:
    shares = {"top1": "top-1", "top5": "top-5", "miou": "mIoU", "pixel_accuracy": "pixels right"}
    table = Table(title=title)
    first = next(iter(numbers.values()))
    headings = [shares.get(name, name) for name in first if name not in ("count", "bytes")]
    for heading in ("", *headings, "images", "weights"):
        table.add_column(heading, justify="right" if heading else "left")
    for kind, row in numbers.items():
        values = [f"{100 * row[name]:.2f} %" for name in first if name in shares]
        table.add_row(kind, *values, f"{row['loss']:.4f}", f"{row['count']:,}", bytes_of(row["bytes"]))
    return table
