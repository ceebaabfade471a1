"""Only the head of a network of random numbers is trained: what a linear probe finds where nothing was learnt.

    python train.py configs/transfer/scratch_probe.py --data.name folder:photos

The options are those of full.py. The running statistics of BatchNorm are as initialised, mean 0 and variance 1.
"""

from dataclasses import replace
from pathlib import Path

from resnet_jax import Start, load_config

probe = load_config(Path(__file__).with_name("probe.py"))
config = replace(probe, start=Start())
