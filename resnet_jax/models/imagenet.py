"""Networks for ImageNet. Each row has the arguments of `ResNet`, written as a depth and the options that change it.

The names are torchvision's, or timm's where torchvision has none. Arguments that a row leaves out have `ResNet`'s
defaults.
"""

from typing import Any

Row = dict[str, Any]

# Depths. He et al. 2015 (arXiv:1512.03385), Table 1; R200 from He et al. 2016 (arXiv:1603.05027); R26, R269 from timm.
R18: Row = {"block": "basic", "stage_sizes": (2, 2, 2, 2)}
R34: Row = {"block": "basic", "stage_sizes": (3, 4, 6, 3)}
R26: Row = {"block": "bottleneck", "stage_sizes": (2, 2, 2, 2)}
R50: Row = {"block": "bottleneck", "stage_sizes": (3, 4, 6, 3)}
R101: Row = {"block": "bottleneck", "stage_sizes": (3, 4, 23, 3)}
R152: Row = {"block": "bottleneck", "stage_sizes": (3, 8, 36, 3)}
R200: Row = {"block": "bottleneck", "stage_sizes": (3, 24, 36, 3)}
R269: Row = {"block": "bottleneck", "stage_sizes": (3, 30, 48, 8)}

# The first 1x1 carries the stride, as first published. Without this row a network is "v1.5", He et al. 2018's ResNet-B.
V1: Row = {"block": "bottleneck_v1"}
# Full pre-activation (He et al. 2016, arXiv:1603.05027).
V2_BASIC: Row = {"block": "preact_basic"}
V2: Row = {"block": "preact_bottleneck"}
# The baseline of He et al. 2015.
PLAIN: Row = {"shortcut": "none"}
# He et al. 2018 (arXiv:1812.01187), section 4: C has the deep stem, D also pools in its shortcuts. S, T: timm's.
C: Row = {"stem": "deep"}
S: Row = {"stem": "deep", "stem_width": 128}
D: Row = {"stem": "deep", "shortcut": "average_pool"}
T: Row = {"stem": "deep_tiered", "shortcut": "average_pool"}
# Xie et al. 2016 (arXiv:1611.05431): 32 groups of 4 channels in the first stage.
X32X4D: Row = {"groups": 32, "base_width": 4}
X32X8D: Row = {"groups": 32, "base_width": 8}
X64X4D: Row = {"groups": 64, "base_width": 4}
# Zagoruyko & Komodakis 2016 (arXiv:1605.07146): twice the width inside the bottleneck.
WIDE: Row = {"base_width": 128}
# Hu et al. 2017 (arXiv:1709.01507).
SE: Row = {"se_ratio": 16}
# Zhang 2019 (arXiv:1904.11486).
BLUR: Row = {"antialias": True}
# Wu & He 2018 (arXiv:1803.08494).
GN: Row = {"norm": "group"}

VARIANTS: dict[str, Row] = {
    # torchvision's ten
    "resnet18": R18,
    "resnet34": R34,
    "resnet50": R50,
    "resnet101": R101,
    "resnet152": R152,
    "resnext50_32x4d": R50 | X32X4D,
    "resnext101_32x8d": R101 | X32X8D,
    "resnext101_64x4d": R101 | X64X4D,
    "wide_resnet50_2": R50 | WIDE,
    "wide_resnet101_2": R101 | WIDE,
    # He et al. 2015, as printed: stride placement and plain baselines
    "resnet50_v1": R50 | V1,
    "resnet101_v1": R101 | V1,
    "resnet152_v1": R152 | V1,
    "plain18": R18 | PLAIN,
    "plain34": R34 | PLAIN,
    # deeper, and pre-activation
    "resnet26": R26,
    "resnet200": R200,
    "resnetv2_18": R18 | V2_BASIC,
    "resnetv2_34": R34 | V2_BASIC,
    "resnetv2_50": R50 | V2,
    "resnetv2_101": R101 | V2,
    "resnetv2_152": R152 | V2,
    "resnetv2_200": R200 | V2,
    # stems and average-pool down-sampling
    "resnet50c": R50 | C,
    "resnet101c": R101 | C,
    "resnet152c": R152 | C,
    "resnet50s": R50 | S,
    "resnet101s": R101 | S,
    "resnet152s": R152 | S,
    "resnet18d": R18 | D,
    "resnet34d": R34 | D,
    "resnet26d": R26 | D,
    "resnet50d": R50 | D,
    "resnet101d": R101 | D,
    "resnet152d": R152 | D,
    "resnet200d": R200 | D,
    "resnet26t": R26 | T,
    "resnet50t": R50 | T,
    # squeeze and excitation
    "seresnet18": R18 | SE,
    "seresnet34": R34 | SE,
    "seresnet50": R50 | SE,
    "seresnet101": R101 | SE,
    "seresnet152": R152 | SE,
    "seresnet50t": R50 | T | SE,
    "seresnet152d": R152 | D | SE,
    "seresnet200d": R200 | D | SE,
    "seresnet269d": R269 | D | SE,
    "seresnext26d_32x4d": R26 | X32X4D | D | SE,
    "seresnext26t_32x4d": R26 | X32X4D | T | SE,
    "seresnext50_32x4d": R50 | X32X4D | SE,
    "seresnext101_32x4d": R101 | X32X4D | SE,
    "seresnext101_32x8d": R101 | X32X8D | SE,
    "seresnext101d_32x8d": R101 | X32X8D | D | SE,
    "seresnext101_64x4d": R101 | X64X4D | SE,
    # anti-aliased down-sampling, group normalisation
    "resnetblur18": R18 | BLUR,
    "resnetblur50": R50 | BLUR,
    "resnetblur50d": R50 | D | BLUR,
    "resnetblur101d": R101 | D | BLUR,
    "resnet50_gn": R50 | GN,
}
