"""A study from its command to its table: each run is an ordinary run, and nothing is done twice."""

import csv
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax.cli import main
from resnet_jax.errors import ConfigError
from resnet_jax.logs.run_log import read_metrics
from resnet_jax.run import result
from resnet_jax.studies import runs
from resnet_jax.studies.opened import open_study

from .tiny import BASE, write_study

pytestmark = pytest.mark.usefixtures("compile_quickly")
TIMINGS = ("seconds", "images_per_second", "data_wait")


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch):
    monkeypatch.setattr(result, "plot_curves", lambda *_: None)


def study(*line):
    """Runs the command; returns its exit status, or what it said in place of one."""
    try:
        main(["study", *map(str, line)])
    except SystemExit as end:
        return end.code
    return 0


def records(workdir):
    """The log but for its timings."""
    return [{k: v for k, v in record.items() if k not in TIMINGS} for record in read_metrics(workdir)]


def rows_of(workdir):
    with (workdir / "table.csv").open() as file:
        return {row["cell"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study of two cells and two seeds that was run to its end, and its file."""
    folder = tmp_path_factory.mktemp("study")
    fields = "axes={'network': NETWORKS}, measures={'norm': norm, 'three': three}, compare=COMPARE, numbers=NUMBERS"
    before = (
        "NUMBERS = ('error', 'train/error')\n"
        "COMPARE = (Difference(of='residual', minus='plain'),)\n"
        "norm = Measure(of=lambda one: float(one.run.state.params['fc']['bias'].std()), each_seed=False)\n"
        "three = Measure(of=lambda one: [one.seed + 1.0, 2.0, 3.0], index='place', log=True)\n"
    )
    file = write_study(folder / "tiny.py", fields, before)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(result, "plot_curves", lambda *_: None)
        assert study(file, "--workdir", folder / "out") == 0
    return folder / "out", file


def test_a_cell_is_the_run_that_train_gives_bit_for_bit(done, tmp_path):
    config = rn.load_config(write_config(tmp_path), ["--seed", "1", "--model.shortcut", "none"])
    rn.train(config, tmp_path / "alone")
    cell = done[0] / "plain" / "seed1"
    assert (cell / "config.json").read_bytes() == (tmp_path / "alone" / "config.json").read_bytes()
    jax.tree.map(np.testing.assert_array_equal, rn.load_run(cell).state, rn.load_run(tmp_path / "alone").state)
    assert records(cell) == records(tmp_path / "alone")


def write_config(folder: Path) -> Path:
    path = folder / "config.py"
    path.write_text(
        "import runpy\nconfig = runpy.run_path(" + repr(str(Path(__file__).with_name("tiny.py"))) + ")['BASE']"
    )
    return path


def test_the_table_is_what_the_runs_say(done):
    out, _ = done
    rows = rows_of(out)
    for cell in ("plain", "residual"):
        results = [json.loads((out / cell / f"seed{seed}" / "result.json").read_text()) for seed in (0, 1)]
        errors = [1 - one["top1"] for one in results]
        assert float(rows[cell]["error mean"]) == pytest.approx(np.mean(errors), abs=1e-12)
        assert float(rows[cell]["error sd"]) == pytest.approx(np.std(errors, ddof=1), abs=1e-12)
        assert rows[cell]["error n"] == "2"
        state = rn.load_run(out / cell / "seed0").state
        assert int(rows[cell]["parameters"]) == sum(leaf.size for leaf in jax.tree.leaves(state.params))
        assert float(rows[cell]["norm mean"]) == pytest.approx(float(state.params["fc"]["bias"].std()))
        assert rows[cell]["norm n"] == "1"  # the same for all seeds
    text = (out / "table.md").read_text()
    assert "| network | error | error in training | norm | n | parameters | MACs | seconds |" in text
    assert re.search(
        r"^- residual minus plain: error [+-]\d+\.\d\d points \(95 % interval .*, 2 seeds\)\. ", text, re.M
    )


def test_pictures_and_the_page_hold_everything(done):
    out, _ = done
    for name in ("numbers", "curves", "three"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "index.html").read_text()
    assert page.count('src="data:image/png;base64,') == 3
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []  # it asks nothing of other files
    for words in (
        "Does it run?",
        "model.shortcut",
        "python -m resnet_jax study",
        "residual minus plain",
        "optim.base_lr",
    ):
        assert words in page
    saved = json.loads((out / "study.json").read_text())
    assert (saved["title"], saved["seeds"], list(saved["cells"])) == ("tiny", [0, 1], ["plain", "residual"])


def test_what_is_complete_is_neither_trained_nor_measured_again(done, monkeypatch, capsys):
    out, file = done
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/seed*/*")}
    monkeypatch.setattr(runs, "train", None)  # a call would raise
    monkeypatch.setattr(runs, "take_measures", None)
    assert study(file, "--workdir", out) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/seed*/*")} == before
    assert "error in" in capsys.readouterr().out


def test_a_new_measure_is_taken_of_runs_that_are_complete(done, tmp_path):
    out, file = done
    more = tmp_path / "more.py"
    more.write_text(file.read_text().replace("'norm': norm", "'norm': norm, 'steps': lambda one: one.result['steps']"))
    assert study(more, "--workdir", out) == 0
    assert rows_of(out)["plain"]["steps mean"] == "4.0"


def test_another_study_is_refused_in_the_folder(done, tmp_path):
    out, file = done
    other = tmp_path / "other.py"
    other.write_text(file.read_text().replace("study_of(", "study_of(title='other', settings={'epochs': 2.0}, "))
    before = (out / "study.json").read_bytes()
    said = study(other, "--workdir", out)
    assert re.search(
        r"holds the study 'tiny' of \w+\.py, which differs from this study, and nothing in it was touched:\n"
        r"  plain: epochs: 1.0 \(saved\) != 2.0 \(asked\)\n  residual: epochs: .*\nChoose another --workdir",
        said,
    )
    assert (out / "study.json").read_bytes() == before
    disjoint = write_study(tmp_path / "disjoint.py", "axes={'rate': RATES}")
    assert "cells: plain, residual (saved), and none of them is in this study" in study(disjoint, "--workdir", out)


def test_a_dry_run_says_what_is_left_and_trains_nothing(done, tmp_path, capsys):
    out, file = done
    assert study(file, "--workdir", out, "--seeds", 0, 1, 2, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "2 cells, 3 seeds" in said
    assert re.search(r"plain +4 steps  1 to run, about \d+ s each", said)
    assert re.search(
        r"About \d+ s in all, without compiling\.\nA forecast by arithmetic alone: .* in the 4 complete", said
    )
    assert not (out / "plain" / "seed2").exists()
    assert study(file, "--workdir", tmp_path / "new", "--dry-run") == 0
    assert "from three steps of plain that were timed here" in capsys.readouterr().out
    assert not (tmp_path / "new").exists()


def test_a_run_that_fails_does_not_end_the_others(tmp_path, capsys):
    """A rate of 1e30 diverges at once; the folder of the other cell cannot be made, which nobody foresaw."""
    rates = "{'0.2': {'optim.base_lr': 0.2}, '1e30': {'optim.base_lr': 1e30}, '0.3': {'optim.base_lr': 0.3}}"
    file = write_study(tmp_path / "tiny.py", f"axes={{'rate': {rates}}}, seeds=(0,)")
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        original = runs.train

        def train(config, *arguments, **options):
            if config.optim.base_lr == 0.3:
                raise RuntimeError("the machine has no more memory")
            return original(config, *arguments, **options)

        patch.setattr(runs, "train", train)
        said = study(file, "--workdir", out)
    assert "error: 2 of 3 runs failed; the others are complete:\n  1e30, seed 0: the loss is" in said
    assert "0.3, seed 0: RuntimeError: the machine has no more memory\nEach has a failed.txt" in said
    assert "Traceback" in (out / "0.3" / "seed0" / "failed.txt").read_text()
    assert "- 1e30, seed 0: failed: the loss is" in (out / "table.md").read_text()
    assert rows_of(out)["0.2"]["n"] == "1"
    # What was wrong is mended: the same command goes on.
    assert "error: 1 of 3 runs failed" in study(file, "--workdir", out)
    assert rows_of(out)["0.3"]["n"] == "1"
    assert not (out / "0.3" / "seed0" / "failed.txt").exists()


def test_a_measure_that_fails_leaves_the_run_complete(tmp_path):
    fields = "axes={'network': NETWORKS}, seeds=(0,), measures={'broken': lambda one: 1 / 0}"
    said = study(write_study(tmp_path / "tiny.py", fields), "--workdir", tmp_path / "out", "--only", "plain")
    assert "1 of 1 runs failed" in said
    assert "ZeroDivisionError" in said
    assert (tmp_path / "out" / "plain" / "seed0" / "result.json").exists()
    assert "a measure is missing: ZeroDivisionError" in (tmp_path / "out" / "table.md").read_text()


def test_a_study_with_blocks_of_its_own(tmp_path):
    """Research needs no change of the package: the block is in the study file."""
    before = (
        "from flax import linen as nn\n"
        "from resnet_jax.models import create_model\n"
        "from resnet_jax.models.blocks import TwoConvolutions\n"
        "class Halved(TwoConvolutions):\n"
        "    @nn.compact\n"
        "    def __call__(self, x):\n"
        "        y = self.parts.norm(name='bn1')(self.strided_conv(self.widths[0], 3, name='conv1')(x))\n"
        "        y = self.last_norm(name='bn2')(self.parts.conv(self.widths[1], 3, name='conv2')(self.parts.act(y)))\n"
        "        return self.output(0.5 * self.add(x, y))\n"
        "def network(config, cell):\n"
        "    block = {'usual': 'basic', 'halved': Halved}[cell.values['block']]\n"
        "    return create_model('cifar_resnet20', block=block, stage_sizes=(1,), num_classes=10, width=4)\n"
    )
    fields = "axes={'block': {'usual': {}, 'halved': {}}}, seeds=(0,), network=network"
    file = write_study(tmp_path / "tiny.py", fields, before)
    assert study(file, "--workdir", tmp_path / "out") == 0
    rows = rows_of(tmp_path / "out")
    assert rows["usual"]["parameters"] == rows["halved"]["parameters"]
    assert rows["usual"]["train/loss mean"] != rows["halved"]["train/loss mean"]
    file.write_text(file.read_text().replace("width=4", "width=8"))
    assert "usual: network: ResNet(" in study(file, "--workdir", tmp_path / "out")


def test_options_that_cannot_be(tmp_path):
    file = write_study(tmp_path / "tiny.py")
    for line, words in (
        (["--only", "plan/0.1"], "--only: unknown cell 'plan/0.1'. Did you mean 'plain/0.1'"),
        (["--processes", "0"], "--processes = 0 must be at least 1"),
        (["--processes", "2", "--gpus", "0"], "cannot be combined with --gpus"),
        (["--seeds", "1", "1"], r"--seeds = (1, 1) must be numbers, at least one, each once"),
        (["--scale", "large"], "unknown scale 'large': the study has none; leave out --scale"),
        (["--model.shortcut", "projection", "--model.block", "ir", "--model.stem", "x"], "were refused"),
        (["--model.stage-sizes", "1", "--model.remat", "3"], "remat = (3,) names stage 3"),
        (["--data.name", "idx:nowhere"], "nowhere"),
        (["--model.num-classes", "7"], "model.num_classes = 7, but digits has 10 classes"),
    ):
        assert words in study(file, "--workdir", tmp_path / "out", *line)
    assert not (tmp_path / "out").exists()


def test_a_run_in_the_way_is_refused_before_anything_runs(tmp_path):
    """A folder of a cell that another config has filled, without any study.json."""
    file = write_study(tmp_path / "tiny.py", "axes={'network': NETWORKS}")
    rn.train(BASE, tmp_path / "out" / "plain" / "seed1")
    with pytest.raises(ConfigError, match=r"(?s)plain: model.shortcut: None \(saved\) != 'none' .*Choose another"):
        open_study(str(file), str(tmp_path / "out"))
