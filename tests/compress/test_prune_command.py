"""The command `prune`: a run with a smaller network, which everything else takes like any other run."""

import contextlib
import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import resnet_jax as rn
from resnet_jax import cli
from resnet_jax.compress import prune
from resnet_jax.config_files import saved_config
from resnet_jax.cost.count import count_macs
from resnet_jax.run.predict import Run
from resnet_jax.run.prune import gradients_of, macs_of, write_run
from resnet_jax.run.start import load_beginning
from resnet_jax.runtime.mesh import make_mesh
from resnet_jax.survival.digests import by_name
from resnet_jax.tasks.assemble import init_state_of
from resnet_jax.tasks.table import settled, task_of

from ..weights.networks import calm, random_variables

DIGITS = Path(__file__).parents[2] / "configs" / "digits.py"
DIGIT_NAMES = tuple("0123456789")
SMALL = ("--model.name", "cifar_resnet8", "--batch-size", "128")

pytestmark = pytest.mark.usefixtures("short_runs")


@pytest.fixture(scope="module")
def trained(short_runs, tmp_path_factory):
    """As if it had been trained: random statistics, and averages that are not the last variables."""
    folder = tmp_path_factory.mktemp("prune") / "run"
    folder.mkdir()
    config = rn.load_config(DIGITS, [*SMALL, "--optim.ema-decay", "0.999", "--start.weights", "elsewhere"])
    task, key = task_of(config), jax.random.key(0)
    state = init_state_of(config, task, make_mesh())(key)
    averages = calm(random_variables(rn.create_model("cifar_resnet8"), channels=1))
    state = state.replace(ema=jax.tree.map(jnp.asarray, averages), step=jnp.int32(11))
    write_run(Run(config, task, state, DIGIT_NAMES), folder, {"loss": 1.0, "top1": 0.5, "top5": 0.75, "count": 360})
    return folder


@pytest.fixture(scope="module")
def smaller(trained):
    """The folder, and what the command printed."""
    folder, printed = trained.with_name("smaller"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        cli.main(["prune", str(trained), "--out", str(folder), "--sparsity", "0.5"])
    return folder, printed.getvalue()


def check_printed(folder, said, how):
    result = json.loads((folder / "result.json").read_text())
    of_parameters, of_macs, *_ = (line.split() for line in said.splitlines() if line.startswith("│"))
    number = lambda text: int(text.replace(",", ""))
    parameters, whole, macs = number(of_parameters[5]), number(of_macs[3]), number(of_macs[5])
    assert float(of_macs[7]) == pytest.approx(macs / whole, abs=1e-3)
    default = {"sparsity": None, "macs": None, "by": "bn_scale", "which": "all", "scope": "layer", "floor": 0.1}
    default["multiple"] = 8
    assert result["pruned"] == default | how | {"parameters": parameters, "of_macs": whole}
    config = saved_config(folder)
    assert config.start == rn.Start()
    assert f"of the stem and of the branches: {' '.join(map(str, config.model.widths))}\n" in said
    assert f"python train.py CONFIG --start.weights {folder} --workdir {folder}-tuned\n" in said
    assert f"{100 * result['top1']:.2f}%" in said
    return macs / whole


def test_what_it_prints(smaller):
    assert check_printed(*smaller, {"sparsity": 0.5}) == pytest.approx(0.2533, abs=1e-4)


@pytest.mark.slow
def test_arithmetic_that_may_stay(trained, tmp_path, capsys):
    folder = tmp_path / "out"
    cli.main(["prune", str(trained), "--out", str(folder), "--macs", "0.35", "--by", "taylor", "--batches", "2"])
    assert 0.2 < check_printed(folder, capsys.readouterr().out, {"macs": 0.35, "by": "taylor"}) <= 0.35


def test_it_is_a_run_like_any_other(trained, smaller, tmp_path, capsys):
    smaller, _ = smaller
    run, less = rn.load_run(trained), rn.load_run(smaller)
    assert less.config.model.widths == (8, 8, 8, 16, 16, 32, 32)
    expected = prune(run.model, run.state.eval_variables, 0.5)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    logits = expected.model.apply(expected.variables, rn.preprocess([*images], run.config.data.preset), train=False)
    assert np.allclose(rn.predict(less, images)["probability"], jax.nn.softmax(logits), atol=1e-6)
    rn.train(less.config, smaller)  # complete: nothing is trained
    assert "holds a complete run, nothing to train" in capsys.readouterr().out
    cli.main(["convert", str(smaller), str(tmp_path / "smaller.safetensors")])
    widths = less.config.model.widths
    _, variables = rn.load_pretrained("cifar_resnet8", tmp_path / "smaller.safetensors", widths=widths)
    for part, arrays in less.state.eval_variables.items():
        assert jax.tree.all(jax.tree.map(np.array_equal, variables[part], arrays))


def test_a_run_that_starts_from_it_has_its_widths(smaller):
    words = [*SMALL, "--start.weights", str(smaller[0])]
    config = settled(rn.load_config(DIGITS, words))
    assert config.model.widths == (8, 8, 8, 16, 16, 32, 32)
    begun = load_beginning(config, task_of(config), DIGIT_NAMES)
    assert begun.new == ()
    assert by_name(rn.load_run(smaller[0]).state.eval_variables).keys() == begun.arrays.keys()
    other = rn.load_config(DIGITS, [*words, "--model.name", "cifar_resnet20"])
    assert settled(other).model.widths == ()  # its own; the weights do not fit then


@pytest.mark.slow
def test_it_is_evaluated_fine_tuned_and_pruned_again(smaller, tmp_path, capsys):
    smaller, _ = smaller
    cli.main(["evaluate", str(smaller), "--as-json"])
    stored = json.loads((smaller / "result.json").read_text())
    assert json.loads(capsys.readouterr().out)["top1"] == stored["top1"]
    words = [*SMALL, "--epochs", "0.2", "--optim.warmup-epochs", "0", "--start.weights", str(smaller)]
    state = rn.train(rn.load_config(DIGITS, words), tmp_path / "tuned")
    assert rn.load_run(tmp_path / "tuned").config.model.widths == (8, 8, 8, 16, 16, 32, 32)
    assert state.params["layer3_0"]["conv2"]["kernel"].shape == (3, 3, 32, 32)
    cli.main(
        [
            "prune",
            str(tmp_path / "tuned"),
            "--out",
            str(tmp_path / "again"),
            "--sparsity",
            "0.5",
            "--which",
            "inner",
            "--multiple",
            "4",
        ]
    )
    assert rn.load_run(tmp_path / "again").config.model.widths == (8, 4, 8, 8, 16, 16, 32)


def test_it_is_exported(smaller, tmp_path):
    onnxruntime, smaller = pytest.importorskip("onnxruntime"), smaller[0]
    cli.main(["export", str(smaller), "--format", "onnx", "--out", str(tmp_path / "onnx"), "--batch", "2"])
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    run, images = rn.load_run(smaller), np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    seen = np.asarray(rn.preprocess([*images], run.config.data.preset))
    expected = np.asarray(run.model.apply(run.state.eval_variables, seen, train=False))
    (logits,) = session.run(None, {"images": np.moveaxis(seen, -1, 1)})
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()
    cli.main(["export", str(smaller), "--format", "stablehlo", "--out", str(tmp_path / "hlo")])
    with pytest.raises(SystemExit, match="cifar_resnet8, pruned, after 11 steps is no network that timm has"):
        cli.main(["export", str(smaller), "--format", "huggingface", "--out", str(tmp_path / "hf")])


def test_gradients_are_those_of_the_evaluated_network(trained):
    """The same batch in any company: with running statistics no image depends on another."""
    run = rn.load_run(trained)
    first, second = gradients_of(run, 2)
    assert not np.allclose(first["bn1"]["scale"], second["bn1"]["scale"])
    (again,) = gradients_of(run, 1)
    assert jax.tree.all(jax.tree.map(np.array_equal, first, again))


def test_arithmetic_is_counted():
    config = rn.load_config(DIGITS, [*SMALL])
    assert macs_of(task_of(config)) == count_macs(rn.create_model("cifar_resnet8"), image_size=8, channels=1)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "say how much is to go: --sparsity 0.5, or --macs 0.35"),
        (["--sparsity", "0.5", "--macs", "0.5"], "say how much is to go"),
        (["--sparsity", "1"], "--sparsity = 1 is the share of the channels that go; it must be between 0 and 1"),
        (["--macs", "1.5"], "--macs = 1.5 is the share of the arithmetic that may stay; it must be between 0 and 1"),
        (
            ["--sparsity", "0.5", "--floor", "1"],
            "--floor = 1 is the share of each layer that stays; it must be at least",
        ),
        (["--sparsity", "0.5", "--batches", "0"], "--multiple = 8 and --batches = 0 must be at least 1"),
    ],
)
def test_mistakes(words, text, tmp_path):
    with pytest.raises(SystemExit, match=text):
        cli.main(["prune", "absent", "--out", str(tmp_path / "out"), *words])
    assert not (tmp_path / "out").exists()


def test_other_mistakes(trained, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="holds files already, such as mine.txt; name a new folder"):
        cli.main(["prune", str(trained), "--out", str(tmp_path), "--sparsity", "0.5"])
    with pytest.raises(SystemExit, match="there is no absent; name the folder of a run"):
        cli.main(["prune", "absent", "--out", str(tmp_path / "out"), "--sparsity", "0.5"])
    weights = tmp_path / "own.safetensors"
    rn.save_weights(weights, random_variables(rn.create_model("cifar_resnet8")))
    with pytest.raises(SystemExit, match="of .*own.safetensors without a run, and nothing says on which images"):
        cli.main(["prune", str(weights), "--out", str(tmp_path / "out"), "--sparsity", "0.5"])
    with pytest.raises(SystemExit, match="no network is small enough: even 0.4% of the channels are too many"):
        cli.main(["prune", str(trained), "--out", str(tmp_path / "out"), "--macs", "0.0001"])
