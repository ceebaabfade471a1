"""Studies of networks of a few layers on a few digits: a second or two for each run.

A study file of a test runs this file by its path, so that a process of its own can read it too.
"""

from pathlib import Path

from resnet_jax import Study, load_config
from resnet_jax.studies.cells import cells_of

ROOT = Path(__file__).parents[2]
BASE = load_config(
    ROOT / "configs" / "digits.py",
    [
        *("--model.name", "cifar_resnet20", "--model.stage-sizes", "1", "--model.width-multiplier", "0.25"),
        *("--model.no-zero-init-residual", "--data.train-split", "train[:256]", "--data.eval-split", "test[:100]"),
        *("--batch-size", "64", "--epochs", "1", "--optim.warmup-epochs", "0", "--log-every-steps", "2"),
        *("--eval-batch-size", "100", "--checkpoint.every-epochs", "0.5", "--optim.base-lr", "0.2"),
    ],
)
NETWORKS = {"plain": {"model.shortcut": "none"}, "residual": {}}
RATES = {"0.1": {"optim.base_lr": 0.1}, "0.2": {"optim.base_lr": 0.2}}


def study_of(**options):
    default = {"title": "tiny", "question": "Does it run?", "base": BASE, "seeds": (0, 1)}
    return Study(**{**default, "axes": {"network": NETWORKS, "rate": RATES}, **options})


def cells(options=(), **fields):
    return cells_of(study_of(**fields), options)


def write_study(path, fields="", before=""):
    """A study file, with these arguments of `study_of`."""
    path.write_text(
        f"import runpy\nfrom resnet_jax import *\nglobals().update(runpy.run_path({str(Path(__file__))!r}))\n"
        f"{before}\nstudy = study_of({fields})\n"
    )
    return path
