"""ResNet-50 on ImageNet-1k in 90 epochs, as torchvision's first weights were trained.

    python train.py configs/recipes/torchvision_v1_resnet50.py --workdir runs/v1

Source: torchvision, references/classification, "ResNet" (8 GPUs of 32 images).
Expected: 76.13 % top-1 (torchvision, the weights IMAGENET1K_V1). Users report 75.4 to 75.9 %. Not run here.
Hours: torchvision gives none.
Differs: bfloat16. BatchNorm's groups are those of the 8 GPUs.
"""

from resnet_jax import Config, DataConfig, ModelConfig, OptimConfig

config = Config(
    model=ModelConfig(name="resnet50", zero_init_residual=False, bn_group_size=32, dtype="bfloat16"),
    data=DataConfig(name="tfds:imagenet2012", eval_split="validation"),
    optim=OptimConfig(
        base_lr=0.1,
        weight_decay=1e-4,  # of all parameters
        schedule="step",
        drop_epochs=(30.0, 60.0),
        rate_moves="epoch",
        warmup_epochs=0.0,
    ),
    epochs=90.0,
    batch_size=256,
    eval_batch_size=256,
    log_every_steps=100,
)
