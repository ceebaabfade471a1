"""Networks for small images (He et al. 2015, section 4.2): a 3x3 stem of 16 channels and three stages.

The depth counts layers with weights: 9n+2 for n bottleneck blocks per stage (He et al. 2016, arXiv:1603.05027).
"""

from typing import Any

# Each row gives the arguments of `ResNet`.
VARIANTS: dict[str, dict[str, Any]] = {
    f"cifar_resnet{9 * n + 2}": {
        "block": "bottleneck",
        "stage_sizes": (n, n, n),
        "width": 16,
        "stem": "cifar",
        "num_classes": 10,
    }
    for n in (3, 18, 111)
}
