"""Transfer learning end to end: a gradual run that is stopped in each phase, and the ladder of levels."""

import csv
import json
import shlex
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.cli import main
from resnet_jax.config_files import defined_in, load_config
from resnet_jax.cost.count import count_parameters
from resnet_jax.errors import ConfigError, Preempted
from resnet_jax.studies.cells import cells_of, scaled
from resnet_jax.survival.digests import by_name
from resnet_jax.survival.signals import StopRequest
from resnet_jax.weights import save_weights

from .test_start import ROOT, config_of, weights, without_head

__all__ = ["weights"]  # the fixture
CONFIGS = ROOT / "configs" / "transfer"
STUDY = ROOT / "studies" / "transfer_ladder.py"
PHASES = (rn.Unfreeze(epoch=0.3, level="last_block"), rn.Unfreeze(epoch=0.6, level="^(layer[23]|fc)"))
TRAINED_UNTIL = {3: set(), 5: {"layer3_0"}, 9: {"layer2_0", "layer3_0"}}


TINY = (
    *("--data.name", "digits", "--data.holdout", "0", "--data.channels", "1", "--data.image-size", "8"),
    *("--data.eval-resize", "8", "--data.mean", "0.3", "--data.std", "0.4", "--data.augment.no-flip"),
    *("--model.name", "cifar_resnet8", "--epochs", "0.2", "--optim.warmup-epochs", "0"),
)


def test_a_gradual_run_is_continued_in_each_phase(weights, tmp_path, capsys):
    """Eleven steps, in phases from steps 0, 3 and 7 on; stopped where a phase ends and within two phases."""
    plain = config_of(weights[0])
    optim = replace(plain.optim, level="head", unfreeze=PHASES, optimizer="adamw", base_lr=0.01, ema_decay=0.5)
    config = replace(plain, optim=optim)
    straight = rn.train(config, tmp_path / "straight")
    for stop in (3, 5, 9):
        with pytest.MonkeyPatch.context() as patch:
            asked = iter(range(last_step(tmp_path / "stopped") + 1, 99))
            patch.setattr(StopRequest, "asked", lambda self, asked=asked, stop=stop: next(asked) == stop)
            with pytest.raises(Preempted, match=f"after step {stop} of 11"):
                rn.train(config, tmp_path / "stopped")
        assert changed_modules(weights[1], rn.load_run(tmp_path / "stopped").state) == TRAINED_UNTIL[stop]
    state = rn.train(config, tmp_path / "stopped")
    jax.tree.map(np.testing.assert_array_equal, state, straight)
    read = rn.load_run(tmp_path / "stopped")
    jax.tree.map(np.testing.assert_array_equal, read.state, straight)
    assert changed_modules(weights[1], straight) == {"layer2_0", "layer3_0"}
    said = capsys.readouterr().out
    assert "the training step of level 'head'" in said
    assert "the training step of level '^(layer[23]|fc)'" in said


def changed_modules(weights, state):
    """The modules that are not as in the weights, without the head."""
    before, after = without_head(weights), by_name(state.variables)
    return {name.split("/")[1] for name, array in before.items() if not np.array_equal(array, after[name])}


def last_step(workdir: Path) -> int:
    steps = [int(path.name) for path in (workdir / "checkpoints").glob("0*")]
    return max(steps, default=0)


def test_the_configs_differ_in_what_they_train():
    configs = {path.stem: load_config(path) for path in sorted(CONFIGS.glob("*.py"))}
    study = {name: configs.pop(name) for name in list(configs) if name.startswith("cifar10_resnet152_")}
    assert {name: config.optim.level for name, config in configs.items()} == {
        "full": "all",
        "gradual": "head",
        "last_block": "last_block",
        "probe": "head",
        "scratch": "all",
        "scratch_probe": "head",
    }
    assert configs["gradual"].optim.unfreeze[-1].level == "all"
    assert {name for name, config in configs.items() if not config.start.weights} == {"scratch", "scratch_probe"}
    assert all(config.data == configs["full"].data for config in configs.values())
    for name, config in study.items():
        rung = name.removeprefix("cifar10_resnet152_")
        assert (config.optim.level, bool(config.start.weights)) == (
            configs[rung].optim.level,
            bool(configs[rung].start.weights),
        )
        assert (config.model.name, config.data.image_size, config.batch_size) == ("resnet152", 224, 128)


def test_the_commands_of_the_page_and_of_the_headers_name_what_there_is():
    texts = [path.read_text() for path in (ROOT / "docs" / "transfer.md", ROOT / "README.md", *CONFIGS.glob("*.py"))]
    lines = [line.strip() for text in texts for line in text.replace("\\\n", " ").splitlines()]
    trains = [shlex.split(line)[2:] for line in lines if line.startswith("python train.py configs/transfer")]
    studies = [shlex.split(line)[4:] for line in lines if line.startswith("python -m resnet_jax study")]
    assert len(trains) >= 9
    assert len(studies) >= 5
    for path, *options in trains:
        places = [place for place in range(0, len(options), 2) if options[place] != "--workdir"]
        load_config(ROOT / path, [word for place in places for word in options[place : place + 2]])
    scales = defined_in(STUDY, "study", rn.Study).scales
    for file, *options in studies:
        assert (ROOT / file).is_file()
        assert "--scale" not in options or options[options.index("--scale") + 1] in scales


@pytest.mark.parametrize("scale", [None, "cifar10"])
def test_the_cells_of_the_ladder_are_the_config_files(scale):
    """So that a rung of the study and `train.py` with its file are the same run."""
    study = scaled(defined_in(STUDY, "study", rn.Study), scale)
    prefix = "cifar10_resnet152_" if scale else ""
    for cell in cells_of(study, ["--model.num-classes", "10"]):
        file = load_config(CONFIGS / f"{prefix}{cell.name}.py", ["--model.num-classes", "10"])
        assert cell.config == file


@pytest.mark.usefixtures("short_runs", "compile_quickly")
def test_the_ladder_starts_from_the_weights_but_for_the_rung_without(tmp_path, capsys):
    weights = tmp_path / "start.safetensors"
    save_weights(weights, rn.init(rn.create_model("cifar_resnet8", num_classes=7), jax.random.key(1), channels=1))
    out = tmp_path / "out"
    line = ["study", str(STUDY), "--workdir", str(out), "--only", "scratch_probe", "probe", "--seeds", "3", *TINY]
    main([*line, "--start.weights", str(weights)])
    assert "The ladder of transfer learning" in capsys.readouterr().out
    with (out / "table.csv").open() as file:
        rows = {row["cell"]: row for row in csv.DictReader(file)}
    whole = count_parameters(rn.create_model("cifar_resnet8", num_classes=10), channels=1)
    assert list(rows) == ["scratch_probe", "probe"]
    for name, row in rows.items():
        folder = out / name / "seed3"
        saved = json.loads((folder / "config.json").read_text())
        assert (saved["start"]["weights"], saved["seed"]) == ("" if name == "scratch_probe" else str(weights), 3)
        assert (float(row["trained parameters mean"]), int(row["parameters"])) == (650.0, whole)
        assert float(row["top1 mean"]) == json.loads((folder / "result.json").read_text())["top1"]
        assert float(row["bytes of a step mean"]) > 4 * whole


def test_one_class_is_refused(tmp_path):
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    from PIL import Image

    for number in range(4):
        Image.new("RGB", (40, 40)).save(tmp_path / "photos" / "cat" / f"{number}.png")
    config = load_config(
        CONFIGS / "scratch.py", ["--data.name", f"folder:{tmp_path / 'photos'}", "--data.holdout", "0.5"]
    )
    with pytest.raises(ConfigError, match="has one class .*cat.*; at least two are needed"):
        rn.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
