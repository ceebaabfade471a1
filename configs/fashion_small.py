"""A fifteenth of Fashion-MNIST, for a network of half the width: what studies for laptops begin with (docs/studies.md).

    python train.py configs/fashion_small.py --data.name idx:/usr/share/datasets/fashion-mnist --workdir runs/small

It reaches less than configs/fashion.py, in a fraction of the time.
"""

from dataclasses import replace
from pathlib import Path

from resnet_jax import CheckpointConfig, load_config

whole = load_config(Path(__file__).with_name("fashion.py"))
config = replace(
    whole,
    # No branch starts at zero, so that plain networks and blocks of all kinds can be compared.
    model=replace(whole.model, width_multiplier=0.5, zero_init_residual=False),
    data=replace(whole.data, train_split="train[:4000]", image_size=28, eval_resize=28),
    checkpoint=CheckpointConfig(every_epochs=3.0),
    epochs=6.0,
    batch_size=64,
    eval_every_epochs=3.0,
    log_every_steps=25,
)
