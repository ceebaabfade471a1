"""ResNet-50 on ImageNet-1k in 90 epochs with batches of 8,192 images: "ImageNet in 1 hour".

    python train.py configs/recipes/goyal2017_resnet50.py --workdir runs/goyal

Source: Goyal et al. 2017 (arXiv:1706.02677), section 5.1.
Expected: 76.26 % top-1, with a standard deviation of 0.09 over 5 runs (the paper, Table 1). Not run here.
Hours: 1 on 256 GPUs (the paper).
Differs: the last layer begins as PyTorch's does, not with a deviation of 0.01. bfloat16.
"""

from resnet_jax import Config, DataConfig, ModelConfig, OptimConfig

config = Config(
    model=ModelConfig(
        name="resnet50",
        zero_init_residual=True,
        bn_group_size=32,  # the images of a GPU
        dtype="bfloat16",
    ),
    data=DataConfig(name="tfds:imagenet2012", eval_split="validation"),
    optim=OptimConfig(
        base_lr=0.1,
        nesterov=True,
        weight_decay=1e-4,
        no_decay=(r"bn",),
        schedule="step",
        drop_epochs=(30.0, 60.0, 80.0),
        warmup_epochs=5.0,
        warmup_start=0.1 / 3.2,  # the rate for 256 images
        warmup_first=0,
    ),
    epochs=90.0,
    batch_size=8192,
    eval_batch_size=2048,
    log_every_steps=20,
)
