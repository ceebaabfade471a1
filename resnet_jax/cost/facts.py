"""The cost of every listed network, kept in a table. These numbers only change with the network itself.

Counting them takes a trace of each network, more than a minute for all. `tests/cost/store_facts.py` counts and stores
them, and tests count them again. The standard library is enough to read them, so `resnet_jax models` answers at once.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = Path(__file__).with_name("facts.json")


@dataclass(frozen=True)
class Cost:
    """The cost of one image's forward pass in evaluation, or of one clip of 16 frames.

    Attributes:
      parameters: trainable numbers, without BatchNorm's running statistics.
      macs: multiply-accumulates of convolutions and matrix products, which papers call "FLOPs".
      activations: numbers in the outputs of convolutions and matrix products (Radosavovic et al. 2020,
        arXiv:2003.13678).
      peak_bytes: variables and the largest set of intermediate values that are alive at once, if each is freed after
        its last use and element-wise work happens in place. A compiler needs more for scratch: besides the variables,
        XLA for CPUs allots 0.8 times as much for ResNet-18 at 224 pixels, 1.8 times for ResNet-50.
    """

    parameters: int
    macs: int
    activations: int
    peak_bytes: int


@dataclass(frozen=True)
class Fact:
    """The cost of a network with its default options.

    Attributes:
      image_size: height and width in pixels of the counted image: `count.usual_size` of the network.
    """

    image_size: int
    cost: Cost


def stored_facts() -> dict[str, Fact]:
    """The stored costs by name, in the order of `list_models()`."""
    rows = json.loads(FILE.read_text())
    return {name: Fact(row.pop("image_size"), Cost(**row)) for name, row in rows.items()}


def store_facts(facts: dict[str, Fact]) -> None:
    """Writes the table, one line per network."""
    rows = [
        f"{json.dumps(name)}: {json.dumps({'image_size': fact.image_size, **asdict(fact.cost)})}"
        for name, fact in facts.items()
    ]
    FILE.write_text("{\n " + ",\n ".join(rows) + "\n}\n")
