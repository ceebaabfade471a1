"""ResNet-50 on ImageNet-1k in 90 epochs: NVIDIA's recipe. With 250 epochs it also mixes images.

    python train.py configs/recipes/nvidia_resnet50.py --workdir runs/nvidia
    python train.py configs/recipes/nvidia_resnet50.py --epochs 250 --data.augment.mixup-alpha 0.2 --workdir runs/250

Source: NVIDIA/DeepLearningExamples, PyTorch/Classification/ConvNets, `configs.yml` and resnet50v1.5/README.md.
Expected: 77.12 +/- 0.11 % top-1 in 90 epochs, 78.43 +/- 0.11 % in 250 (its README, 8 A100, mixed precision). Not run
here.
Hours: about 3 for 90 epochs on 8 A100, about 14 on one (its README).
Differs: bfloat16, where they scale the loss of float16. An image is mixed with the one before it in its group, where
they draw an order.
"""

from resnet_jax import AugmentConfig, Classify, Config, DataConfig, ModelConfig, OptimConfig

config = Config(
    model=ModelConfig(
        name="resnet50",
        weight_init="he_fan_in",
        zero_init_residual=False,
        bn_group_size=256,  # the images of a GPU
        dtype="bfloat16",
    ),
    data=DataConfig(name="tfds:imagenet2012", eval_split="validation", augment=AugmentConfig(mix_group_size=256)),
    task=Classify(label_smoothing=0.1),
    optim=OptimConfig(
        base_lr=0.256,
        momentum=0.875,
        weight_decay=1 / 32768,
        no_decay=(r"bn\d",),  # their rule goes by names, and finds no norm of a shortcut
        schedule="cosine",
        rate_moves="epoch",
        warmup_epochs=8.0,
    ),
    epochs=90.0,
    batch_size=2048,
    eval_batch_size=2048,
    log_every_steps=50,
)
