"""The command, from names to tables, files and pictures; and torch in a process of its own."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from resnet_jax import cli
from resnet_jax.peers import measure, names
from resnet_jax.peers.names import find
from resnet_jax.peers.torch_process import Ready, TorchProcess, _peak_of


def compare(*arguments):
    cli.main(["compare", *map(str, arguments)])


def error(capsys, *arguments):
    with pytest.raises(SystemExit, match="error: ") as stopped:
        compare(*arguments)
    capsys.readouterr()
    return str(stopped.value)


def shows_something(path):
    return np.asarray(Image.open(path).convert("L")).std() > 5


def test_costs_and_pictures(torchvision, tmp_path, capsys):
    words = ["resnet50", "resnet50:IMAGENET1K_V1", "vgg19", "vit_b_16", "plain34"]
    compare(*words, "--no-speed", "--figure3", "--out", tmp_path / "new" / "folder")
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if line.startswith("vgg19"))
    assert line.split() == ["vgg19", "224", "143,667,240", "19.632", "14.9", "72.376", "90.876", "V1"]
    assert "plain34" in out
    assert "as published by torchvision (its metadata)." in out
    assert "run by" not in out
    assert "the paper says   19.6 G" in out
    folder = tmp_path / "new" / "folder"
    facts = json.loads((folder / "compare.json").read_text())
    assert [row["word"] for row in facts["rows"]] == words
    assert facts["rows"][3]["macs"] == pytest.approx(17.564e9, abs=5e5)
    assert facts["rows"][4]["published"] is None
    rows = list(csv.DictReader((folder / "compare.csv").open()))
    assert [(row["word"], int(row["parameters"])) for row in rows] == [
        (row["word"], row["parameters"]) for row in facts["rows"]
    ]
    assert (rows[0]["top1"], rows[0]["source"], rows[4]["top1"]) == ("80.858", "torchvision", "")
    assert len(json.loads((folder / "figure3.json").read_text())) == 3
    assert shows_something(folder / "compare.png")
    assert shows_something(folder / "figure3.png")


def test_speeds(torchvision, compile_quickly, monkeypatch, tmp_path, capsys):
    """Ours by JAX, another by torch: every number is there, and both are in the table and the files."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # on a busy machine torch's threads wait for each other
    arguments = ["--engines", "jax", "torch", "--batch-size", 2, "--rounds", 1, "--out", tmp_path]
    compare("cifar_resnet20", "shufflenet_v2_x0_5", *arguments)
    out = capsys.readouterr().out
    assert "images/s, 2" in out
    assert "medians of 1 turns" in out
    rows = json.loads((tmp_path / "compare.json").read_text())["rows"]
    assert [[speed["engine"] for speed in row["speeds"]] for row in rows] == [["jax"], ["torch"]]
    for row in rows:
        (speed,) = row["speeds"]
        assert speed["problem"] == ""
        assert min(speed["latency"], speed["images_per_second"], speed["first_seconds"]) > 0
        # The parameters and the images are held, and more.
        assert speed["peak_bytes"] > 4 * row["parameters"] + 4 * 2 * 3 * row["image_size"] ** 2
    lines = list(csv.DictReader((tmp_path / "compare.csv").open()))
    assert [(line["word"], line["engine"], line["device"]) for line in lines] == [
        ("cifar_resnet20", "jax", "cpu"),
        ("shufflenet_v2_x0_5", "torch", "cpu"),
    ]
    assert shows_something(tmp_path / "compare.png")


class Dying:
    """A process whose network cannot be run, or that dies while it is timed."""

    def __init__(self, network):
        self.network = network

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def prepare(self, batch_size, *, compiled):
        return "RuntimeError: no C++ compiler" if compiled else Ready("cpu", 0.5, 10**9)

    def turn(self, batch_size, launches, *, compiled):
        assert not compiled
        return math.inf if self.network.name == "vgg11" else 0.25 * batch_size


def test_an_engine_that_does_not_work_is_said_in_its_row(torchvision, monkeypatch, capsys):
    monkeypatch.setattr(measure, "TorchProcess", Dying)
    compare("vgg19", "vgg11", "--rounds", 1)
    out = capsys.readouterr().out
    assert "vgg19 is not run by torch compiled: RuntimeError: no C++ compiler" in out
    assert "vgg11 is not run by torch: its process died while it was timed" in out
    line = next(line for line in out.splitlines() if line.startswith("vgg19    torch"))
    assert line.split() == ["vgg19", "torch", "250.0", "4.0", "1.00", "GB", "0.5"]


def test_a_network_that_torch_cannot_build_and_a_process_that_dies(torchvision):
    ((network,), _) = find(["vgg19"])
    with TorchProcess(replace(network, name="vgg_19")) as process:
        answer = process.prepare(1, compiled=False)
        assert answer.startswith("ValueError: Unknown model vgg_19")
        process._process.kill()
        assert process.prepare(1, compiled=False) == "its process has died (exit code -9)"
        assert process.turn(1, 1, compiled=False) == math.inf


def test_one_image_is_a_batch_too(torchvision, monkeypatch, capsys):
    monkeypatch.setattr(measure, "TorchProcess", Dying)
    compare("vgg19", "--rounds", 1, "--batch-size", 1, "--engines", "torch")
    assert "vgg19    torch         250.0          4.0  1.00 GB      0.5" in capsys.readouterr().out


def test_without_torch_ours_are_run_by_jax_alone(monkeypatch, compile_quickly, capsys):
    hidden = lambda *packages: [name for name in packages if name in ("torch", "torchvision", "timm")]
    monkeypatch.setattr(names, "missing", hidden)
    monkeypatch.setattr(measure, "missing", hidden)
    compare("cifar_resnet20", "vgg19", "--batch-size", 2, "--rounds", 1, "--as-json")
    facts = json.loads(capsys.readouterr().out)
    assert [speed["engine"] for speed in facts["rows"][0]["speeds"]] == ["jax"]
    assert facts["left_out"]["torch"] == "nothing is run by torch, since torch and torchvision cannot be imported"
    assert "vgg19 is no network of this package" in facts["left_out"]["vgg19"]


def test_memory_is_what_the_allocator_held(torchvision):
    import torch

    def launch():
        first = torch.ones(1000)
        second = torch.ones(500)
        del first
        return second + torch.ones(500)

    launch()
    # At the end there are three arrays of 500 numbers, before there were 1000 and 500.
    assert _peak_of(launch, "cpu") == 4 * 1500


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "name the networks to compare, such as: compare resnet50 vgg19; or ask for --figure3"),
        (["resnet50", "--rounds", 0], "--rounds = 0 must be at least 1"),
        (["resnet50", "--batch-size", -1], "--batch-size = -1 must be at least 1"),
        (["resnet_50"], "unknown network 'resnet_50'. Did you mean"),
    ],
)
def test_mistakes(torchvision, capsys, arguments, text):
    assert text in error(capsys, *arguments)


def test_a_file_in_the_place_of_the_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "file could not be written: File exists" in error(capsys, "resnet50", "--out", tmp_path / "file")
