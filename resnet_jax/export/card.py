"""The model card: what a network is, from the run's own record."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from resnet_jax import __version__
from resnet_jax.config import Config
from resnet_jax.config.checked import flat
from resnet_jax.config.data import without_folders
from resnet_jax.files import open_folder, read_json
from resnet_jax.logs.shown import Shown
from resnet_jax.run.environment import read_sessions
from resnet_jax.run.evaluate import key, shown_names
from resnet_jax.run.network import Network, describe
from resnet_jax.run.predict import Run
from resnet_jax.run.result import RESULT

# Fields that say where files lie, how often something is written, and how fast: nothing of them is in the weights.
_NOT_RECIPE = (
    *("checkpoint.", "data.name", "data.directory", "data.threads", "data.workers", "log_every_steps"),
    *("watchdog_seconds", "eval_batch_size", "start.weights"),
)


class Trained(NamedTuple):
    """A run, and the folder with its record."""

    run: Run
    folder: str


def model_card(network: Network, name: str, trained: Trained | None) -> str:
    """The text of `README.md`.

    Args:
      name: timm's name of the network.
      trained: where the network is from; None = weights without a run, whose training nothing is known of.
    """
    lines = [
        "---",
        "library_name: timm",
        "pipeline_tag: image-classification",
        "tags:",
        "- image-classification",
        "- timm",
        "---",
        "",
        f"# {name}: {len(network.class_names)} classes",
        "",
        *(_record(*trained) if trained else [f"Converted from {network.title}. Its training is not recorded here."]),
        "",
        "## Use",
        "",
        "```python",
        "import timm",
        "",
        'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()  # FOLDER holds this file',
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        "```",
        "",
        f"- {describe(network.preset)[0].upper()}{describe(network.preset)[1:]}; "
        f"mean {_words(network.preset.mean)} and standard deviation {_words(network.preset.std)} of values in [0, 1].",
        f"- Classes: {_words(_some(network.class_names))}.",
        "",
        f"Written by resnet_jax {__version__}.",
    ]
    return "\n".join(lines) + "\n"


def _record(run: Run, folder: str) -> list[str]:
    config, step = run.config, int(run.state.step)
    sessions = read_sessions(folder)
    versions = sessions[-1].get("versions", {}) if sessions else {}
    libraries = [f"{package} {versions[package]}" for package in ("jax", "flax") if versions.get(package)]
    changed = {field: value for field, value in _recipe(config).items() if value != _recipe(Config()).get(field)}
    always = ("epochs", "batch_size", "optim.name", "optim.base_lr", "seed")
    shown = {field: _recipe(config)[field] for field in always if field in _recipe(config)} | changed
    return [
        f"Trained on `{without_folders(config.data.name)}` for {config.epochs:g} epochs; these are the weights after "
        f"{step} steps.",
        "",
        "## Accuracy",
        "",
        *_accuracy(run, folder),
        "",
        "## Recipe",
        "",
        "| field | value |",
        "|--|--|",
        *(f"| {field} | {_cell(value)} |" for field, value in shown.items()),
        "",
        "All other fields are the defaults of resnet_jax.Config.",
        "",
        *([f"Trained with {', '.join(libraries)}."] if libraries else []),
    ]


def _accuracy(run: Run, folder: str) -> list[str]:
    """What `result.json` says of the weights of this step."""
    path = open_folder(folder) / RESULT
    if not path.exists():
        return ["The run is not complete, so it has recorded no result."]
    result, step, config = read_json(path), int(run.state.step), run.config
    best = key(config.evaluations[0].name, run.task.best)
    numbers: dict[str, Any] = {}
    if step == result.get("steps"):
        numbers = {name: result[name] for name in shown_names(config, run.task) if name in result}
    elif step == result.get("best_step") and f"best_{best}" in result:
        numbers = {best: result[f"best_{best}"]}
    if not numbers:
        return [f"The run has recorded no result for the weights after {step} steps."]
    shown = shown_names(config, run.task)
    said = [f"- {shown[name].label}: {_number(shown[name], value)}" for name, value in numbers.items()]
    for one in config.evaluations:
        count = result.get(key(one.name, "count"))
        data = without_folders(one.data or config.data.name)
        said.append(f"- {one.name or 'measured'} on `{data}`, split {one.split}, {count} images, by the run itself")
    return said


def _number(shown: Shown, value: float | None) -> str:
    return "nan" if value is None else shown.text(value)


def _recipe(config: Config) -> dict[str, Any]:
    fields = flat(dataclasses.asdict(config))
    return {name: value for name, value in fields.items() if not name.startswith(_NOT_RECIPE)}


def _cell(value: Any) -> str:
    return "`" + str(value).replace("|", "\\|").replace("\n", " ") + "`"


def _words(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))


def _some(names: Sequence[str], shown: int = 20) -> list[str]:
    return [*names[:shown], *([f"and {len(names) - shown} more"] if len(names) > shown else [])]
