"""Each augmentation, and label smoothing, alone.

    python -m resnet_jax study studies/augmentation.py --data.name idx:/usr/share/datasets/fashion-mnist
    python -m resnet_jax study studies/augmentation.py --scale paper     # ResNet-50 on ImageNet; not run here

`none` shows the images as they are. Each other cell adds one change to it. A change that helps long training can harm a
short one, so ask for more epochs before you believe a sign: `--epochs 30`. By itself the study is sized for a laptop:
networks of half the width, on 4,000 images of Fashion-MNIST.
"""

from pathlib import Path
from typing import Any

from resnet_jax import Difference, Scale, Study, load_config

CONFIGS = Path(__file__).parents[1] / "configs"
NONE = {"data.augment.shift_pixels": 0, "data.augment.flip": False}
CHANGES: dict[str, dict[str, Any]] = {
    "none": {},
    "shift": {"data.augment.shift_pixels": 2},
    "flip": {"data.augment.flip": True},
    "random_crop": {"data.augment.random_resized_crop": True, "data.augment.crop_min_area": 0.5},
    "brightness": {"data.augment.brightness": 0.4},
    "contrast": {"data.augment.contrast": 0.4},
    "erase": {"data.augment.erase_probability": 0.25},
    "trivial_augment": {"data.augment.policy": "trivial_augment_wide"},
    "rand_augment": {"data.augment.policy": "rand_augment"},
    "mixup": {"data.augment.mixup_alpha": 0.2},
    "cutmix": {"data.augment.cutmix_alpha": 1.0},
    "label_smoothing": {"task.label_smoothing": 0.1},
}
OF_PHOTOGRAPHS: dict[str, dict[str, Any]] = {
    **{name: change for name, change in CHANGES.items() if name not in ("shift", "random_crop")},
    "random_crop": {"data.augment.random_resized_crop": True},
    "saturation": {"data.augment.saturation": 0.4},
    "lighting": {"data.augment.lighting": 0.1},
}

study = Study(
    title="Each augmentation alone",
    question="Which change of the training images lowers the error on images that were not trained on?",
    base=CONFIGS / "fashion_small.py",
    axes={"change": CHANGES},
    settings=NONE,
    numbers=("error", "train/error"),
    compare=tuple(Difference(of=name, minus="none") for name in CHANGES | OF_PHOTOGRAPHS if name != "none"),
    scales={
        "paper": Scale(
            settings={
                **vars(load_config(CONFIGS / "recipes" / "torchvision_v1_resnet50.py")),
                **NONE,
                "data.augment.random_resized_crop": False,
            },
            axes={"change": OF_PHOTOGRAPHS},
            seeds=(0,),
        ),
    },
)
