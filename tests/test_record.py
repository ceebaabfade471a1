"""What a run was made with is written down, and two runs can be compared."""

import json
import shutil

import numpy as np
import pytest

from resnet_jax import cli
from resnet_jax.config import Config, OptimConfig
from resnet_jax.config_files import save_config
from resnet_jax.data.fingerprint import fingerprint
from resnet_jax.errors import ConfigError
from resnet_jax.run import environment as record
from resnet_jax.run.environment import append_session, compare_runs, describe_environment, last_command, read_sessions
from resnet_jax.run.revisions import REVISION, changes_since
from resnet_jax.training.optim import plan_steps


class Images:
    class_names = ("a", "b")

    def __init__(self, count=50, seed=0):
        self.images = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 1), np.uint8)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index], "label": index % 2}


class SwappedLabels(Images):
    def __getitem__(self, index):
        return super().__getitem__(index) | {"label": 1 - index % 2}


def session(**changes):
    return describe_environment(seed=3, from_step=0, data={"train": "abc"}) | changes


def test_an_environment_says_code_versions_devices_and_data():
    made = json.loads(json.dumps(session()))
    assert made["devices"] == "8 x cpu"
    assert (made["processes"], made["seed"], made["data"]) == (1, 3, {"train": "abc"})
    assert set(made["versions"]) == {"python", *record.PACKAGES}
    assert made["versions"]["jax"].count(".") == 2
    if made["git"] is not None:
        assert len(made["git"]["commit"]) == 40
        assert made["git"]["dirty"] in (True, False)


def test_code_outside_git_has_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(record, "__file__", str(tmp_path / "record.py"))
    assert session()["git"] is None


def test_sessions_are_appended_and_changes_are_told(tmp_path):
    assert append_session(tmp_path, session()) == []
    assert append_session(tmp_path, session(from_step=5, command="again")) == []
    versions = session()["versions"] | {"jax": "9.9.9"}
    changed = append_session(tmp_path, session(versions=versions, data={"train": "xyz"}))
    assert changed == [f"versions.jax: {session()['versions']['jax']} -> 9.9.9", "data.train: abc -> xyz"]
    assert len(read_sessions(tmp_path)) == 3


def test_what_an_earlier_version_computed_otherwise_is_said_once():
    plan = plan_steps(Config(), 1_281_167)
    old, new = [{"seed": 1}], [{"seed": 1}, session(revision=REVISION)]
    average = Config(optim=OptimConfig(ema_decay=0.9))
    assert [line[:18] for line in changes_since(old, average, plan)] == ["the moving average"]
    assert changes_since(new, average, plan) == changes_since([], average, plan) == []
    assert changes_since(old, Config(), plan) == []

    drops = Config(optim=OptimConfig(schedule="step", drop_epochs=(30.0, 30.0)))
    assert "lower the rate twice" in changes_since(old, drops, plan)[0]
    assert changes_since(old, Config(optim=OptimConfig(schedule="step")), plan) == []

    longer = Config(epochs=1.15, batch_size=10, optim=OptimConfig(warmup_epochs=0.0))
    assert "without rounding errors" in changes_since(old, longer, plan_steps(longer, 500))[0]


@pytest.mark.parametrize("text", ["", "{}", "[1]", "[" * 100_000])
def test_a_damaged_record_is_an_error_of_ours(tmp_path, text):
    (tmp_path / "environment.json").write_text(text)
    with pytest.raises(ConfigError, match=r"environment.json .*delete it to begin a new record"):
        read_sessions(tmp_path)


@pytest.mark.parametrize("change", ["pixels", "labels", "length", "names"])
def test_other_data_has_another_fingerprint(change):
    other = Images()
    assert fingerprint(other) == fingerprint(Images())
    if change == "pixels":
        other = Images(seed=1)
    elif change == "labels":
        other = SwappedLabels()
    elif change == "length":
        other = Images(count=51)
    else:
        other.class_names = ("a", "c")
    assert fingerprint(other) != fingerprint(Images())


@pytest.fixture
def two_runs(tmp_path):
    for name, changes, top1 in (("a", {}, 0.5), ("b", {"seed": 7}, 0.75)):
        (tmp_path / name).mkdir()
        save_config(Config(**changes), tmp_path / name)
        append_session(tmp_path / name, session(started="now", command="train", **changes))
        (tmp_path / name / "result.json").write_text(json.dumps({"top1": top1, "steps": 11}))
    return tmp_path / "a", tmp_path / "b"


def test_two_runs_differ_in_what_differs_alone(two_runs):
    expected = {"config.seed": (0, 7), "environment.seed": (3, 7), "result.top1": (0.5, 0.75)}
    assert compare_runs(*two_runs) == expected
    (two_runs[1] / "result.json").unlink()
    assert compare_runs(*two_runs)["result.steps"] == (11, None)


def test_diff_prints_a_table(two_runs, capsys):
    cli.main(["diff", *map(str, two_runs)])
    table = capsys.readouterr().out
    for text in ("config.seed", "result.top1", "0.75"):
        assert text in table
    assert "versions" not in table
    cli.main(["diff", *map(str, two_runs), "--as-json"])
    assert json.loads(capsys.readouterr().out)["config.seed"] == [0, 7]
    cli.main(["diff", str(two_runs[0]), str(shutil.copytree(two_runs[0], two_runs[0] / "copy"))])
    assert capsys.readouterr().out == "The two runs do not differ.\n"


def test_diff_explains_what_it_cannot_compare(two_runs, tmp_path):
    with pytest.raises(SystemExit, match="holds no run"):
        cli.main(["diff", str(two_runs[0]), str(tmp_path)])
    (two_runs[1] / "result.json").write_text("{")
    with pytest.raises(ConfigError, match="result.json cannot be read"):
        compare_runs(*two_runs)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "train.py configs/digits.py --workdir 'my runs/a'",
            " with: python train.py configs/digits.py --workdir 'my runs/a'",
        ),
        ("/usr/bin/resnet_jax train --workdir a", " with: /usr/bin/resnet_jax train --workdir a"),
        ("-c", ""),
    ],
)
def test_the_command_of_a_run_is_known(tmp_path, command, said):
    assert last_command(tmp_path) == ""
    append_session(tmp_path, session(command=command))
    assert last_command(tmp_path) == said


def test_differences_fit_80_columns(two_runs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(two_runs[0].parent)
    cli.main(["diff", "a", "b"])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "seed" in out
