"""Published weights as data: their files, their accuracy, and how their images were prepared.

Figures are torchvision's own (`Weights.meta` of torchvision 0.28; a test compares every one). Those of classification
were measured on the 50,000 validation images of ImageNet, those of detection on the images of COCO's val2017, and those
of segmentation on the images there that have one of Pascal VOC's classes. Those of videos are of whole videos of
Kinetics-400: the mean over 5 clips of 16 frames each, at 15 frames per second. The last eight digits of a file name are
the start of its SHA-256.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from resnet_jax.config import Preset
from resnet_jax.errors import WeightsError, unknown_name

_URL = "https://download.pytorch.org/models/"
# Where the training of a set is described.
_GITHUB = "https://github.com/pytorch/vision/"
_RESNET = _GITHUB + "tree/main/references/classification#resnet"
_RESNEXT = _GITHUB + "tree/main/references/classification#resnext"
_WIDE = _GITHUB + "pull/912#issue-445437439"
_RESNEXT_64 = _GITHUB + "pull/5935"
_NEW = _GITHUB + "issues/3995#new-recipe"
_NEW_50 = _GITHUB + "issues/3995#issuecomment-1013906621"
_FCN_50 = _GITHUB + "tree/main/references/segmentation#fcn_resnet50"
_FCN_101 = _GITHUB + "tree/main/references/segmentation#fcn_resnet101"
_DEEPLAB_50 = _GITHUB + "tree/main/references/segmentation#deeplabv3_resnet50"
_DEEPLAB_101 = _GITHUB + "tree/main/references/segmentation#deeplabv3_resnet101"
_VIDEO = _GITHUB + "tree/main/references/video_classification"
_NEW_FIXRES = _GITHUB + "issues/3995#new-recipe-with-fixres"


_DETECT = _GITHUB + "tree/main/references/detection#"
_FASTER, _MASK, _RETINA, _FCOS = (
    _DETECT + part for part in ("faster-r-cnn-resnet-50-fpn", "mask-r-cnn", "retinanet", "fcos-resnet-50-fpn")
)
_FASTER_V2, _MASK_V2, _RETINA_V2 = (_GITHUB + f"pull/{number}" for number in (5763, 5773, 5756))

ClassList = Literal["imagenet", "voc", "kinetics", "coco"]


@dataclass(frozen=True)
class WeightSet:
    """One published file.

    Attributes:
      num_params: number of parameters, without BatchNorm's running statistics.
      accuracy: by the names of `evaluate`, in percent; the first one decides which set is the best. `top1` and `top5`
        of classification and of videos; `miou` and `pixel_accuracy` of segmentation; `box_ap` and `mask_ap` of
        detection.
      recipe: address of the description of the training.
      classes: of the logits.
      options: of `create_model`, for a network that computes as the set's did.
    """

    model: str
    name: str
    file: str
    num_params: int
    accuracy: Mapping[str, float] = field(hash=False)
    preset: Preset
    recipe: str
    classes: ClassList = "imagenet"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def url(self) -> str:
        return _URL + self.file

    @property
    def sha256_start(self) -> str:
        return self.file.rsplit("-", 1)[1].split(".")[0]

    @property
    def class_names(self) -> tuple[str, ...]:
        return class_names(self.classes)


V1 = Preset()
V2 = Preset(resize=232)
WHOLE = Preset(resize=520, crop=0)
CLIPS = Preset(
    exact=(128, 171),
    crop=112,
    mean=(0.43216, 0.394666, 0.37645),
    std=(0.22803, 0.22145, 0.216989),
    antialias=False,
)
OBJECTS = Preset(resize=800, crop=0, antialias=False)
COCO = "COCO_WITH_VOC_LABELS_V1"

# The V1 files of the two wide networks are float16. torchvision exchanges the addresses of the two deep networks for
# segmentation; it is nothing of importance, since all four are those of one page.
# fmt: off
_CLASSIFY = (
    ("resnet18", "IMAGENET1K_V1", "resnet18-f37072fd.pth", 11_689_512, 69.758, 89.078, V1, _RESNET),
    ("resnet34", "IMAGENET1K_V1", "resnet34-b627a593.pth", 21_797_672, 73.314, 91.420, V1, _RESNET),
    ("resnet50", "IMAGENET1K_V1", "resnet50-0676ba61.pth", 25_557_032, 76.130, 92.862, V1, _RESNET),
    ("resnet50", "IMAGENET1K_V2", "resnet50-11ad3fa6.pth", 25_557_032, 80.858, 95.434, V2, _NEW_50),
    ("resnet101", "IMAGENET1K_V1", "resnet101-63fe2227.pth", 44_549_160, 77.374, 93.546, V1, _RESNET),
    ("resnet101", "IMAGENET1K_V2", "resnet101-cd907fc2.pth", 44_549_160, 81.886, 95.780, V2, _NEW),
    ("resnet152", "IMAGENET1K_V1", "resnet152-394f9c45.pth", 60_192_808, 78.312, 94.046, V1, _RESNET),
    ("resnet152", "IMAGENET1K_V2", "resnet152-f82ba261.pth", 60_192_808, 82.284, 96.002, V2, _NEW),
    ("resnext50_32x4d", "IMAGENET1K_V1", "resnext50_32x4d-7cdf4587.pth", 25_028_904, 77.618, 93.698, V1, _RESNEXT),
    ("resnext50_32x4d", "IMAGENET1K_V2", "resnext50_32x4d-1a0047aa.pth", 25_028_904, 81.198, 95.340, V2, _NEW),
    ("resnext101_32x8d", "IMAGENET1K_V1", "resnext101_32x8d-8ba56ff5.pth", 88_791_336, 79.312, 94.526, V1, _RESNEXT),
    ("resnext101_32x8d", "IMAGENET1K_V2", "resnext101_32x8d-110c445d.pth", 88_791_336, 82.834, 96.228, V2, _NEW_FIXRES),
    ("resnext101_64x4d", "IMAGENET1K_V1", "resnext101_64x4d-173b62eb.pth", 83_455_272, 83.246, 96.454, V2, _RESNEXT_64),
    ("wide_resnet50_2", "IMAGENET1K_V1", "wide_resnet50_2-95faca4d.pth", 68_883_240, 78.468, 94.086, V1, _WIDE),
    ("wide_resnet50_2", "IMAGENET1K_V2", "wide_resnet50_2-9ba9bcbe.pth", 68_883_240, 81.602, 95.758, V2, _NEW_FIXRES),
    ("wide_resnet101_2", "IMAGENET1K_V1", "wide_resnet101_2-32ee1156.pth", 126_886_696, 78.848, 94.284, V1, _WIDE),
    ("wide_resnet101_2", "IMAGENET1K_V2", "wide_resnet101_2-d733dc28.pth", 126_886_696, 82.510, 96.020, V2, _NEW),
)
_SEGMENT = (
    ("fcn_resnet50", "fcn_resnet50_coco-1167a1af.pth", 35_322_218, 60.5, 91.4, _FCN_50),
    ("fcn_resnet101", "fcn_resnet101_coco-7ecb50ca.pth", 54_314_346, 63.7, 91.9, _DEEPLAB_101),
    ("deeplabv3_resnet50", "deeplabv3_resnet50_coco-cd0a2569.pth", 42_004_074, 66.4, 92.4, _DEEPLAB_50),
    ("deeplabv3_resnet101", "deeplabv3_resnet101_coco-586e9e4e.pth", 60_996_202, 67.4, 92.4, _FCN_101),
)
_VIDEOS = (
    ("r3d_18", "KINETICS400_V1", "r3d_18-b3b3357e.pth", 33_371_472, 63.2, 83.479),
    ("mc3_18", "KINETICS400_V1", "mc3_18-a90a0ba3.pth", 11_695_440, 63.96, 84.13),
    ("r2plus1d_18", "KINETICS400_V1", "r2plus1d_18-91a641e6.pth", 31_505_325, 67.463, 86.175),
)
# torchvision trained the first detectors with frozen batch normalisation, and all but FCOS without its epsilon.
_EPS_0, _FROZEN = {"norm": "frozen_eps0"}, {"norm": "frozen"}
_OBJECTS: tuple[tuple[str, str, int, dict[str, float], str, dict[str, str]], ...] = (
    ("fasterrcnn_resnet50_fpn", "258fb6c6", 41_755_286, {"box_ap": 37.0}, _FASTER, _EPS_0),
    ("fasterrcnn_resnet50_fpn_v2", "dd69338a", 43_712_278, {"box_ap": 46.7}, _FASTER_V2, {}),
    ("maskrcnn_resnet50_fpn", "bf2d0c1e", 44_401_393, {"box_ap": 37.9, "mask_ap": 34.6}, _MASK, _EPS_0),
    ("maskrcnn_resnet50_fpn_v2", "73cbd019", 46_359_409, {"box_ap": 47.4, "mask_ap": 41.8}, _MASK_V2, {}),
    ("retinanet_resnet50_fpn", "eeacb38b", 34_014_999, {"box_ap": 36.4}, _RETINA, _EPS_0),
    ("retinanet_resnet50_fpn_v2", "5905b1c5", 38_198_935, {"box_ap": 41.5}, _RETINA_V2, {}),
    ("fcos_resnet50_fpn", "99b0c9b7", 32_269_600, {"box_ap": 39.2}, _FCOS, _FROZEN),
)
# fmt: on

WEIGHT_SETS: tuple[WeightSet, ...] = (
    *(WeightSet(*row[:4], {"top1": row[4], "top5": row[5]}, *row[6:]) for row in _CLASSIFY),
    *(
        WeightSet(row[0], COCO, *row[1:3], {"miou": row[3], "pixel_accuracy": row[4]}, WHOLE, row[5], "voc")
        for row in _SEGMENT
    ),
    *(WeightSet(*row[:4], {"top1": row[4], "top5": row[5]}, CLIPS, _VIDEO, "kinetics") for row in _VIDEOS),
    *(
        WeightSet(name, "COCO_V1", f"{name}_coco-{start}.pth", count, found, OBJECTS, recipe, "coco", options)
        for name, start, count, found, recipe, options in _OBJECTS
    ),
)

# In the order of Pascal VOC, whose background is the first class.
# fmt: off
_VOC = (
    "__background__", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on


def options_of(model: str, source: str | Path) -> Mapping[str, Any]:
    """The options of `create_model` that the published set has, if `source` is the name of one or of its file."""
    named = lambda known: source in (known.name, "DEFAULT") or Path(source).name == known.file
    of_it = (known for known in WEIGHT_SETS if known.model == model and named(known))
    return next((known.options for known in of_it), {})


def find_weight_set(model: str, name: str = "DEFAULT") -> WeightSet:
    """The published set called `name`. `DEFAULT` is the most accurate set of the network.

    Raises:
      WeightsError: nothing is published for that network, or nothing under that name.
    """
    sets = {weights.name: weights for weights in WEIGHT_SETS if weights.model == model}
    if not sets:
        published = dict.fromkeys(weights.model for weights in WEIGHT_SETS)
        raise WeightsError(
            f"no weights are catalogued for {model!r}, only for {', '.join(published)}; "
            "pass a file, or a repository of the Hugging Face hub such as 'timm/resnet50d.ra2_in1k'"
        )
    if name == "DEFAULT":
        return max(sets.values(), key=lambda weights: next(iter(weights.accuracy.values())))
    if name not in sets:
        raise WeightsError(unknown_name(f"weight set of {model}", name, sets))
    return sets[name]


@cache
def class_names(of: ClassList = "imagenet") -> tuple[str, ...]:
    """Classes in the order of the logits, as torchvision calls them: ImageNet's 1000, Pascal VOC's 21 (`voc`),
    Kinetics' 400 (`kinetics`), or COCO's 91 (`coco`), the background and 10 that no object has among them."""
    if of == "voc":
        return _VOC
    return tuple(resources.files(__package__).joinpath(f"{of}_classes.txt").read_text("utf-8").splitlines())
