"""ResNet-152 with ImageNet's weights on CIFAR-10 at 224 pixels, batch 128: all layers are trained.

    python -m resnet_jax study studies/transfer_ladder.py --scale cifar10

The data must be prepared first (docs/data.md, TFDS). What to expect: a study of this kind, whose recipe is not known in
all details, has found these accuracies on validation and test images: probe on a random network about 15 %, probe 79.3
and 80.4 %, last block 91.0 and 91.5 %, full fine-tuning 96.3 and 96.3 %. This project has not run these files to the
end yet.
"""

from dataclasses import replace
from pathlib import Path

from resnet_jax import AugmentConfig, CheckpointConfig, DataConfig, Eval, ModelConfig, Start, load_config

full = load_config(Path(__file__).with_name("full.py"))
config = replace(
    full,
    model=ModelConfig(name="resnet152", num_classes=10, dtype="bfloat16"),
    start=Start(weights="IMAGENET1K_V1"),
    data=DataConfig(
        name="tfds:cifar10",
        train_split="train[:90%]",
        eval_split="test",
        image_size=224,
        eval_resize=224,
        augment=AugmentConfig(crop_min_area=0.5),
    ),
    # The first decides which checkpoint is best: so the test images choose nothing.
    evals=(
        Eval(name="validation", split="train[90%:]"),
        Eval(name="test", split="test"),
    ),
    optim=replace(full.optim, base_lr=0.04),  # for 256 images; this is 0.02 for 128
    checkpoint=CheckpointConfig(every_epochs=1.0),
    epochs=10.0,
    batch_size=128,
    eval_batch_size=256,
    log_every_steps=50,
)
