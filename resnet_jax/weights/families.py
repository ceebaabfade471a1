"""Tables of names: how files call the parts of a family of networks. `names.py` reads them.

A row has the name of a module, and its name elsewhere. `{stage}`, `{block}` and `{n}` stand for numbers. `{stage0}` is
one less, for libraries that count from 0. A module that no row names keeps its name.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from resnet_jax.models.headed import resnet_in
from resnet_jax.models.segment.network import SCORES

Rows = tuple[tuple[str, str], ...]
Layout = Literal["torchvision", "timm_d", "huggingface", "pytorch_cifar"]


@dataclass(frozen=True, eq=False)  # compared by identity, so that it may be a key of caches
class Family:
    """How files name the parts of one family of networks. A new family is one more of these, and no new code.

    Attributes:
      modules: rows from our modules, with dots and numbers (`layer1.0.downsample_conv`), to the layout "torchvision".
      layouts: whose names there are; rows from the layout "torchvision", which is one of them and has none.
      head: our modules with one output for each class: their arrays have another size where the classes are others.
      stem: our convolutions that may be the first, the one that reads the image.
      block: a regular expression that finds the number of a stage and of a residual block in a key of any layout.
      layout_of: the layout in which the library that has this network writes it.
      foreign: layouts in which this network is not written: a file of such a layout is of another network, even if all
        names and shapes agree.
      roots: the modules that hold the backbone. Variables with one of them are of this family.
      rooted: whether files name the root too, as in `backbone.conv1`.
      keys: rows of whole keys, for arrays that a file names in another way than its module and then the array.
      stems: names of stems. A network with one of them, and variables and files with the stem's first convolution, are
        of this family.
      marks: fields of a network, and modules of its variables, that tell the family where others have its roots too.
      beginnings: rows from the beginning of a module's name to the one in files, in every layout.
      old: rows from whole keys of older files to those of today.
      boxes: where `head` modules have outputs for each pair of a class and an anchor: our modules with four outputs for
        each anchor.
    """

    modules: Rows
    layouts: Mapping[str, Rows]
    head: tuple[str, ...]
    stem: tuple[str, ...]
    block: str
    layout_of: Callable[[Any], str] = lambda model: "torchvision"
    foreign: Callable[[Any], frozenset[str]] = lambda model: frozenset()
    roots: tuple[str, ...] = ()
    rooted: bool = True
    keys: Rows = ()
    stems: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    beginnings: Rows = ()
    old: Rows = ()
    boxes: tuple[str, ...] = ()


# Names alone do not say what has no arrays. Who writes these layouts has no network with other shortcuts; a shortcut of
# the user's own may be any.
_NOT_POOLED, _PADDED_AFTER = frozenset({"timm_d"}), frozenset({"timm_d", "pytorch_cifar"})
_FOREIGN = {
    "average_pool": frozenset({"pytorch_cifar"}),
    "projection": _NOT_POOLED,
    "projection_always": _NOT_POOLED,
    "zero_pad_centred": _NOT_POOLED,
    "zero_pad": _PADDED_AFTER,
    "none": _PADDED_AFTER,
}


def _foreign(model: Any) -> frozenset[str]:
    shortcut = getattr(model, "shortcut", None)
    return _FOREIGN.get(shortcut, frozenset()) if isinstance(shortcut, str) else frozenset()


_BLOCK = "layer{stage}.{block}"
FACTORS = (("spatial", 0), ("norm", 1), ("temporal", 3))
"""The modules of `temporal.Factored`, and torchvision's numbers of them."""
_HF = "resnet.encoder.stages.{stage0}.layers.{block}"

RESNET = Family(
    modules=(
        (f"{_BLOCK}.downsample_conv", f"{_BLOCK}.downsample.0"),
        (f"{_BLOCK}.downsample_bn", f"{_BLOCK}.downsample.1"),
    ),
    layouts={
        # Also timm's names, for every network whose shortcut does not pool.
        "torchvision": (),
        # timm's networks with an average pool in front of the shortcut's convolution, such as resnet50d.
        "timm_d": (
            (f"{_BLOCK}.downsample.0", f"{_BLOCK}.downsample.1"),
            (f"{_BLOCK}.downsample.1", f"{_BLOCK}.downsample.2"),
        ),
        # transformers' ResNetForImageClassification, such as microsoft/resnet-50.
        "huggingface": (
            ("conv1", "resnet.embedder.embedder.convolution"),
            ("bn1", "resnet.embedder.embedder.normalization"),
            (f"{_BLOCK}.conv{{n}}", f"{_HF}.layer.{{n0}}.convolution"),
            (f"{_BLOCK}.bn{{n}}", f"{_HF}.layer.{{n0}}.normalization"),
            (f"{_BLOCK}.downsample.0", f"{_HF}.shortcut.convolution"),
            (f"{_BLOCK}.downsample.1", f"{_HF}.shortcut.normalization"),
            ("fc", "classifier.1"),
        ),
        # akamaster/pytorch_resnet_cifar10, whose option A has half of the zeros before the copied channels, and
        # kuangliu/pytorch-cifar, from which it took the names.
        "pytorch_cifar": (
            (f"{_BLOCK}.downsample.0", f"{_BLOCK}.shortcut.0"),
            (f"{_BLOCK}.downsample.1", f"{_BLOCK}.shortcut.1"),
            ("fc", "linear"),
        ),
    },
    head=("fc",),
    stem=("conv1", "conv1.0", "conv1.spatial", "conv1.0.spatial"),
    block=r"(?:layer|encoder\.stages\.)(\d+)\.(?:layers\.)?(\d+)\.",
    layout_of=lambda model: "timm_d" if getattr(model, "shortcut", None) == "average_pool" else "torchvision",
    foreign=_foreign,
)
"""The networks of `list_models()`."""

_ROOTS = ("backbone", "encoder")


def _below(rows: Rows, roots: Sequence[str] = _ROOTS) -> Rows:
    """The same rows for the modules of a backbone."""
    return tuple((f"{root}.{ours}", f"{root}.{theirs}") for root in roots for ours, theirs in rows)


SEGMENT = Family(
    modules=_below(RESNET.modules),
    layouts={layout: _below(RESNET.layouts[layout]) for layout in ("torchvision", "timm_d")},
    head=("classifier.4", "aux_classifier.4", "segmentation_head.0", *SCORES),
    stem=tuple(f"{root}.{stem}" for root in _ROOTS for stem in RESNET.stem),
    block=RESNET.block,
    layout_of=lambda model: RESNET.layout_of(resnet_in(model)),
    roots=_ROOTS,
)
"""Networks for segmentation: torchvision's names, and segmentation_models_pytorch's of U-Net."""

EMBED = Family(
    modules=RESNET.modules,
    layouts={layout: RESNET.layouts[layout] for layout in ("torchvision", "timm_d")},
    head=("features",),
    stem=RESNET.stem,
    block=RESNET.block,
    layout_of=lambda model: RESNET.layout_of(resnet_in(model)),
    roots=("trunk",),
    rooted=False,
)
"""Networks for embeddings: insightface's names of an iresnet."""

_ARRAYS = ("weight", "bias")
_ATTENTION = "transformer.layers.{n}.self_attn"

FRAMES = Family(
    modules=_below(RESNET.modules, ("cnn",)),
    layouts={layout: _below(RESNET.layouts[layout], ("cnn",)) for layout in ("torchvision", "timm_d")},
    head=("classifier",),
    stem=tuple(f"cnn.{stem}" for stem in RESNET.stem),
    block=RESNET.block,
    layout_of=lambda model: RESNET.layout_of(resnet_in(model)),
    roots=("cnn",),
    keys=tuple(
        (f"{head}.{which}_l{{n}}.{array}", f"{head}.{array}_{which}_l{{n}}")
        for head in ("lstm", "gru")
        for which in ("ih", "hh")
        for array in _ARRAYS
    )
    + tuple((f"{_ATTENTION}.in_proj.{array}", f"{_ATTENTION}.in_proj_{array}") for array in _ARRAYS),
)
"""Networks over the frames of clips. The names below the head are those of torch's LSTM, GRU and TransformerEncoder."""

VIDEO = Family(
    modules=(
        # Of a convolution that is cut into space and time; and any block's own.
        *((f"{_BLOCK}.conv{{n}}.{ours}", f"{_BLOCK}.conv{{n}}.0.{i}") for ours, i in FACTORS),
        (f"{_BLOCK}.conv{{n}}", f"{_BLOCK}.conv{{n}}.0"),
        (f"{_BLOCK}.bn{{n}}", f"{_BLOCK}.conv{{n}}.1"),
        *RESNET.modules,
    ),
    layouts={"torchvision": ()},
    head=RESNET.head,
    stem=("stem.0",),
    block=RESNET.block,
    stems=("r3d", "r2plus1d"),
)
"""torchvision's networks for video. Networks with other stems in space and time have the names of `RESNET`."""

_FPN = "backbone.fpn"
_TOWERS = ("head.classification_head", "head.regression_head")

DETECT = Family(
    modules=(*_below(RESNET.modules, ("backbone",)), ("fpn.extra_blocks_p{n}", "fpn.extra_blocks.p{n}")),
    layouts={layout: _below(RESNET.layouts[layout], ("backbone",)) for layout in ("torchvision", "timm_d")},
    head=(
        "box_predictor.cls_score",
        "box_predictor.bbox_pred",
        "mask_predictor.mask_fcn_logits",
        "head.classification_head.cls_logits",
        "head.cls_score",
    ),
    stem=tuple(f"backbone.{stem}" for stem in RESNET.stem),
    block=RESNET.block,
    layout_of=lambda model: RESNET.layout_of(resnet_in(model)),
    roots=("backbone",),
    marks=("anchor_sizes", "fpn"),
    beginnings=(
        ("backbone.", "backbone.body."),
        ("fpn.", f"{_FPN}."),
        ("rpn_head.", "rpn.head."),
        *((f"{head}.", f"roi_heads.{head}.") for head in ("box_head", "box_predictor", "mask_head", "mask_predictor")),
    ),
    # Those of torchvision before 0.13, and so of its first published sets.
    old=tuple(
        (f"{before}.{array}", f"{now}.{array}")
        for before, now in (
            *((f"{_FPN}.{part}.{{n}}", f"{_FPN}.{part}.{{n}}.0") for part in ("inner_blocks", "layer_blocks")),
            ("rpn.head.conv", "rpn.head.conv.0.0"),
            *((f"roi_heads.mask_head.mask_fcn{i + 1}", f"roi_heads.mask_head.{i}.0") for i in range(4)),
            *((f"{tower}.conv.{2 * i}", f"{tower}.conv.{i}.0") for tower in _TOWERS for i in range(4)),
        )
        for array in _ARRAYS
    ),
    boxes=("head.regression_head.bbox_reg", "head.bbox_pred"),
)
"""Networks that find objects: torchvision's names, and for YOLOF, which it has not, names like them."""

FAMILIES = (VIDEO, FRAMES, EMBED, DETECT, SEGMENT, RESNET)
ROOTS = tuple(root for family in FAMILIES for root in family.roots)


def named(family: Family, module: str) -> str:
    """A module whose name has another beginning in files."""
    for ours, theirs in family.beginnings:
        if module.startswith(ours):
            return theirs + module.removeprefix(ours)
    return module


def family_in(keys: Container[str]) -> Family:
    """The family of the network that a file with these keys is of: its stem or its head tells.

    A file of no known network counts as one of `RESNET`.
    """
    telling = lambda family: family.stem if family.stems else [named(family, module) for module in family.head]
    tells = lambda family: any(f"{module}.weight" in keys for module in telling(family))
    return next(filter(tells, FAMILIES), RESNET)


def family_of(network: Any) -> Family:
    """The family of a model, or of the variables of one."""
    if isinstance(network, Mapping):
        modules = {module for part in network.values() for module in part}
        parts = {module.split("_")[0] for module in modules}
        has_stem = lambda family: family.stem[0].split(".")[0] in parts
        has = lambda name: name in modules
    else:
        has_stem = lambda family: getattr(network, "stem", None) in family.stems
        has = lambda name: hasattr(network, name)
    of_its_own = lambda family: family.stems and has_stem(family)
    under = lambda family: any(map(has, family.marks or family.roots))
    return next((family for family in FAMILIES if of_its_own(family) or under(family)), RESNET)
