"""configs/digits.py with a network of 8 layers, which compiles in a third of the time: for runs in tests.

A process of its own takes it as its config (`python train.py tests/small_digits.py`); in the process of the tests the
fixture `short_runs` makes the network known for as long as a file's tests last.
"""

from pathlib import Path

from resnet_jax import load_config
from resnet_jax.models import create

create.VARIANTS["cifar_resnet8"] = create.VARIANTS["cifar_resnet20"] | {"stage_sizes": (1, 1, 1)}  # 6n+2, n = 1
config = load_config(Path(__file__).parents[1] / "configs" / "digits.py", ["--model.name", "cifar_resnet8"])
