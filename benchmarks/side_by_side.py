"""Seeds of one network in one program, beside one after the other: a step of `vmap` over runs, for several sizes.

    python benchmarks/side_by_side.py                       # digits and Fashion-MNIST's size, three seeds
    python benchmarks/side_by_side.py --runs 8

Both take turns, and the medians are printed. Images are zeros; their number and size are those of the studies.
"""

import argparse
from pathlib import Path

from resnet_jax.cost.speed import time_in_turns
from resnet_jax.runtime.programs import remember_programs
from resnet_jax.runtime.xla_flags import set_xla_flags
from resnet_jax.studies.opened import open_study
from resnet_jax.studies.timing import alone, beside

STUDIES = Path(__file__).parents[1] / "studies"
CELLS = (
    ("digits_depth.py", "residual/8"),
    ("digits_depth.py", "residual/32"),
    ("plain_vs_residual.py", "residual/20"),
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    set_xla_flags()
    remember_programs()
    for file, name in CELLS:
        (cell,) = open_study(str(STUDIES / file), "", only=[name]).cells
        seconds = time_in_turns({"alone": alone(cell)[0], "beside": beside(cell, runs)[0]})
        apart, joined = runs * seconds["alone"], seconds["beside"]
        print(
            f"{file} {name}: {runs} steps one after the other {1000 * apart:.1f} ms, in one program "
            f"{1000 * joined:.1f} ms ({joined / apart:.2f} times)",
            flush=True,
        )
