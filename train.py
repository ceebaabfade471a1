"""`python train.py [CONFIG.py] [--field value ...] [--workdir DIR]`: the same as `resnet_jax train ...`."""

import sys

from resnet_jax.commands.train import Arguments, train_and_exit
from resnet_jax.config_files import read_config_file

__all__ = ["Arguments", "read_config_file"]

if __name__ == "__main__":
    train_and_exit(sys.argv[1:], [__file__])
