"""examples/notebook.ipynb: a notebook of version 4, whose cells run in order and say what is so. Needs no jupyter."""

import json
import re
import shutil
from pathlib import Path

import jax
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax import cli
from resnet_jax.models import create_model
from resnet_jax.tasks import assemble

pytestmark = pytest.mark.usefixtures("short_runs", "compile_quickly")

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "notebook.ipynb"


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A small network, trained for a few steps where the notebook looks for a run."""
    monkeypatch.setattr(
        assemble,
        "build_model",
        lambda config: create_model("cifar_resnet20", num_classes=config.model.num_classes, stage_sizes=(1, 1, 1)),
    )
    config = rn.load_config(ROOT / "configs" / "digits.py", ["--epochs", "0.5", "--optim.warmup-epochs", "0.1"])
    rn.train(config, tmp_path / "runs" / "digits")
    shutil.copytree(ROOT / "examples" / "images", tmp_path / "examples" / "images")
    return tmp_path


def test_it_is_a_notebook_without_outputs():
    """The parts that nbformat's schema of 4.5 requires, and nothing that a run would leave."""
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook.keys() == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert notebook["metadata"]["kernelspec"].keys() == {"display_name", "language", "name"}
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len({*ids}) == len(ids)
    for cell in notebook["cells"]:
        of_code = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert cell["cell_type"] in ("code", "markdown")
        assert cell.keys() == {"cell_type", "id", "metadata", "source"} | of_code
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"])
        assert all(isinstance(line, str) for line in cell["source"])
        if of_code:
            assert (cell["execution_count"], cell["outputs"]) == (None, [])


@pytest.mark.parametrize("inside", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_its_cells_run_in_order(trained, monkeypatch, capsys, inside):
    """Started in the project's folder, and in that of the notebook as Jupyter does."""
    monkeypatch.chdir(trained / "examples" if inside else trained)
    matplotlib.use("Agg")
    capsys.readouterr()
    names = {}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    plt.close("all")
    said = capsys.readouterr().out
    run = names["run"]
    assert f"after {int(run.state.step)} steps; classes: 0, 1, 2" in said

    # `predict` of the command line says the same of the same files.
    cli.main(["predict", str(trained / "runs" / "digits"), *map(str, names["paths"]), "--as-json", "--top", "10"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    by_command = [[line[name] for name in run.class_names] for line in lines]
    np.testing.assert_allclose(names["probabilities"], by_command, atol=2e-6)
    for path, row in zip(names["paths"], by_command, strict=True):
        assert f"{path.name}: {np.argmax(row)} (" in said

    # The features are those of this network on these images: the head makes the same probabilities of them.
    head = jax.device_get(run.state.eval_variables["params"]["fc"])
    logits = np.asarray(names["features"]["pooled"]) @ head["kernel"] + head["bias"][None]
    np.testing.assert_allclose(jax.nn.softmax(logits), names["probabilities"], atol=1e-5)
    assert names["stages"] == ["stage1", "stage2", "stage3"]
    assert len(names["grid"].flat) == len(names["paths"]) * 4
    np.testing.assert_allclose(np.diag(names["alike"]), 1, rtol=1e-5)
