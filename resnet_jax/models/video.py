"""Names of networks in space and time."""

from typing import Any

_TORCHVISION: dict[str, Any] = {"block": "basic", "stage_sizes": (2, 2, 2, 2), "num_classes": 400}
# Hara et al. 2018, arXiv:1711.09577, Table 1, and github.com/kenshohara/3D-ResNets-PyTorch: a stem of 7x7x7 and a
# max-pool of 3x3x3. torchvision's `r3d_18` has a stem of 3x7x7 and no pool, so these are no deeper forms of it.
_HARA: dict[str, Any] = {"time": "3d", "num_classes": 400}

VARIANTS: dict[str, dict[str, Any]] = {
    # torchvision/models/video/resnet.py (Tran et al. 2018, arXiv:1711.11248)
    "r3d_18": _TORCHVISION | {"stem": "r3d", "time": "3d"},
    "mc3_18": _TORCHVISION | {"stem": "r3d", "time": "mixed"},
    "r2plus1d_18": _TORCHVISION | {"stem": "r2plus1d", "time": "2+1d"},
    "r3d_34": _HARA | {"block": "basic", "stage_sizes": (3, 4, 6, 3), "shortcut": "zero_pad"},
    "r3d_50": _HARA | {"block": "bottleneck", "stage_sizes": (3, 4, 6, 3)},
    "r3d_101": _HARA | {"block": "bottleneck", "stage_sizes": (3, 4, 23, 3)},
    "r3d_152": _HARA | {"block": "bottleneck", "stage_sizes": (3, 8, 36, 3)},
}
