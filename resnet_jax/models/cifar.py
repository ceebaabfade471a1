"""Networks for small images (He et al. 2015, section 4.2). Each row has the arguments of `ResNet`.

A network has a 3x3 stem of 16 channels and three stages of n blocks. The depth in a name counts layers with weights:
6n+2 with basic blocks, 9n+2 with bottlenecks, 6n+4 for Wide ResNets (which count their projections).
"""

from typing import Any

Row = dict[str, Any]

SMALL: Row = {"stem": "cifar", "width": 16, "num_classes": 10}
BASIC = (20, 32, 44, 56, 110, 1202)  # Table 6
BOTTLENECK = (29, 164, 1001)  # He et al. 2016 (arXiv:1603.05027); 29 is for quick runs
WIDE = ((28, 10), (16, 8))  # Zagoruyko & Komodakis 2016 (arXiv:1605.07146): depth and widening factor

# Identity shortcuts throughout (option A) for basic blocks, as the paper has them.
basic: dict[int, Row] = {
    depth: SMALL | {"block": "basic", "stage_sizes": (depth // 6,) * 3, "shortcut": "zero_pad"} for depth in BASIC
}
bottleneck: dict[int, Row] = {
    depth: SMALL | {"block": "bottleneck", "stage_sizes": (depth // 9,) * 3} for depth in BOTTLENECK
}

VARIANTS: dict[str, Row] = {
    **{f"cifar_resnet{depth}": row for depth, row in basic.items()},
    **{f"cifar_resnet{depth}": row for depth, row in bottleneck.items()},
    # Option A as the weights of akamaster/pytorch_resnet_cifar10 have it.
    **{f"cifar_resnet{depth}_centred": row | {"shortcut": "zero_pad_centred"} for depth, row in basic.items()},
    **{f"cifar_plain{depth}": row | {"shortcut": "none"} for depth, row in basic.items()},
    **{f"cifar_resnetv2_{depth}": row | {"block": "preact_basic"} for depth, row in basic.items()},
    **{f"cifar_resnetv2_{depth}": row | {"block": "preact_bottleneck"} for depth, row in bottleneck.items()},
    **{
        f"cifar_wide_resnet{depth}_{k}": SMALL
        | {"block": "preact_basic", "stage_sizes": (depth // 6,) * 3, "stem_width": 16, "width": 16 * k}
        for depth, k in WIDE
    },
}
