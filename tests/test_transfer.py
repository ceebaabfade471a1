"""Transfer learning end to end: a gradual run that is stopped in each phase, and the ladder of levels."""

import io
import json
import shlex
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.cli import main
from resnet_jax.commands.ladder import Rung, table_of
from resnet_jax.config_files import load_config
from resnet_jax.cost.count import count_parameters
from resnet_jax.display import plain_console
from resnet_jax.errors import ConfigError, Preempted
from resnet_jax.logs.shown import Shown
from resnet_jax.survival.digests import by_name
from resnet_jax.survival.signals import StopRequest
from resnet_jax.weights import save_weights

from .test_start import ROOT, config_of, weights, without_head

__all__ = ["weights"]  # the fixture
CONFIGS = ROOT / "configs" / "transfer"
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
    ladders = [shlex.split(line)[4:] for line in lines if line.startswith("python -m resnet_jax ladder")]
    assert len(trains) >= 9
    assert len(ladders) >= 3
    for path, *options in trains:
        places = [place for place in range(0, len(options), 2) if options[place] != "--workdir"]
        load_config(ROOT / path, [word for place in places for word in options[place : place + 2]])
    for folder, *options in ladders:
        assert ROOT / folder == CONFIGS
        if "--rungs" in options:
            assert {f"{rung}.py" for rung in options[options.index("--rungs") + 1 :]} <= {
                p.name for p in CONFIGS.iterdir()
            }


@pytest.mark.usefixtures("short_runs")
def test_the_ladder_trains_each_rung_once_and_compares_them(tmp_path, capsys):
    weights = tmp_path / "start.safetensors"
    save_weights(weights, rn.init(rn.create_model("cifar_resnet8", num_classes=7), jax.random.key(1), channels=1))
    line = ["ladder", str(CONFIGS), "--workdir", str(tmp_path), "--rungs", "scratch_probe", "probe"]
    line += ["--seeds", "3", *TINY, "--start.weights", str(weights)]
    main(line)
    out = capsys.readouterr().out
    assert "cifar_resnet8 on digits" in out
    rungs = json.loads((tmp_path / "ladder.json").read_text())
    whole = count_parameters(rn.create_model("cifar_resnet8", num_classes=10), channels=1)
    assert [rung["name"] for rung in rungs] == ["scratch_probe", "probe"]
    assert [(rung["trained"], rung["parameters"]) for rung in rungs] == [(650, whole)] * 2
    folders = [tmp_path / rung / "seed3" for rung in ("scratch_probe", "probe")]
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    assert [rung["values"] for rung in rungs] == [[result["top1"]] for result in results]
    assert (tmp_path / "ladder.png").read_bytes().startswith(b"\x89PNG")
    saved = [json.loads((folder / "config.json").read_text()) for folder in folders]
    assert [one["start"]["weights"] for one in saved] == ["", str(weights)]
    assert [one["seed"] for one in saved] == [3, 3]

    main([*line, "--as-json"])
    captured = capsys.readouterr()
    assert json.loads(captured.out)["rungs"] == rungs
    assert "nothing to train" in captured.err


def test_the_table_has_means_and_deviations():
    log = [{"kind": "train", "epoch": 1, "loss": 2.0}]
    rung = Rung("last_block", (0.5, 0.6, 0.7), 60.0, 10_000_000, 250, 1000, (log, log, log))
    alone = replace(rung, name="full", values=(0.5,), trained=1000)
    console = plain_console(width=80, record=True, file=io.StringIO())
    console.print(table_of([rung, alone], Shown("top-1", "{:.2%}"), "a net"))
    words = console.export_text()
    for expected in ("60.00% ± 10.00%", "50.00% ", "10.0 MB", "250 (25.0%)", "1,000 (100.0%)"):
        assert expected in words


def test_a_rung_without_a_file(tmp_path):
    with pytest.raises(
        SystemExit, match=r"error: config file .*last_blok.py does not exist.* Did you mean .*last_block.py"
    ):
        main(["ladder", str(CONFIGS), "--workdir", str(tmp_path / "out"), "--rungs", "last_blok"])
    assert not (tmp_path / "out").exists()


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
