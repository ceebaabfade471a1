"""Embeddings of numbers: two handwritten digits side by side, and the identity is the number they form.

    python train.py configs/embed/digits.py --workdir runs/numbers

Trained on 80 of the numbers from 00 to 99, and judged on the other 20, which no image of the training shows, from scans
that it does not show either: are two images of the same number?
"""

from resnet_jax import AugmentConfig, CheckpointConfig, Config, DataConfig, Embed, ModelConfig, OptimConfig

config = Config(
    model=ModelConfig(name="embed_cifar_resnet20", num_classes=80, stage_sizes=(1, 1, 1), zero_init_residual=False),
    data=DataConfig(
        name="digit_numbers",
        train_split="known",
        eval_split="unseen",
        channels=1,
        image_size=32,
        eval_resize=32,
        augment=AugmentConfig(random_resized_crop=False, shift_pixels=2, flip=False),  # a mirrored 2 is not a 2
        mean=(0.25,),
        std=(0.25,),
    ),
    task=Embed(embedding_size=64, margins=(1.0, 0.2, 0.0), scale=16.0, eval_flip=False),
    optim=OptimConfig(
        base_lr=0.2,
        nesterov=True,
        weight_decay=5e-4,
        no_decay=(r"bn", r"bias$"),
        schedule="cosine",
        warmup_epochs=2.0,
    ),
    checkpoint=CheckpointConfig(every_epochs=2.0),
    epochs=12.0,
    batch_size=128,
    eval_batch_size=400,
    eval_every_epochs=1.0,
    log_every_steps=20,
)
