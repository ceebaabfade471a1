"""From words such as `vgg19`, `resnet50:IMAGENET1K_V1` or `convnext_tiny.fb_in1k` to networks of three libraries.

torchvision and timm need not be installed. A word that only they could know is left out then, with the reason.
"""

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from resnet_jax.cost.count import usual_size
from resnet_jax.errors import ConfigError, ModelError, WeightsError, unknown_name
from resnet_jax.models import create_model, list_models
from resnet_jax.parity.reference import import_torchvision, make_reference
from resnet_jax.peers.timm_results import RESULTS
from resnet_jax.weights.catalog import WEIGHT_SETS, find_weight_set

Library = Literal["resnet_jax", "torchvision", "timm"]

# torchvision builds these with auxiliary heads, which its published set of weights has not.
_AS_PUBLISHED = {"googlenet": {"aux_logits": False, "init_weights": False}, "inception_v3": {"init_weights": False}}


@dataclass(frozen=True)
class Published:
    """Accuracy on the 50,000 validation images of ImageNet, in percent, and who measured it."""

    top1: float
    top5: float
    source: str


@dataclass(frozen=True)
class Compared:
    """A network of the comparison.

    Attributes:
      word: as the user named it.
      library: whose code defines it. A network of this package is run here by JAX, and by torch too where torchvision
        or timm has one of the same name.
      name: in its library.
      weights: the published set whose accuracy is shown; empty = none is known here.
      image_size: pixels of a side: those of the published accuracy, or those that such networks are for.
    """

    word: str
    library: Library
    name: str
    weights: str
    image_size: int
    published: Published | None

    def build(self) -> Any:
        """This package's network.

        Raises:
          ModelError: it is another library's.
        """
        return create_model(self.name)

    def build_torch(self) -> Any:
        """The torch module with random parameters, in evaluation mode.

        Raises:
          WeightsError: neither torchvision nor timm has the network, or they are not installed.
        """
        if self.library == "resnet_jax":
            return make_reference(self.name).eval()
        models = import_torchvision().models
        if self.library == "timm":
            import timm

            return timm.create_model(self.name, pretrained=False).eval()
        options: dict[str, Any] = dict(_AS_PUBLISHED.get(self.name, {}))
        if self.name.startswith("vit_"):
            options["image_size"] = self.image_size
        return models.get_model(self.name, weights=None, **options).eval()


def find(words: Sequence[str]) -> tuple[list[Compared], dict[str, str]]:
    """The networks that the words name, and the words that are left out with the reason.

    A word is a network's name, with `:` and a published set behind it or not. `timm:` or `torchvision:` before it names
    the library; without it this package comes first, then torchvision, then timm.

    Raises:
      ModelError: no library knows a word, and all are installed.
      WeightsError: a published set that the network has not.
      ConfigError: the same network is named twice, or all words were left out.
    """
    found: list[Compared] = []
    left_out: dict[str, str] = {}
    for word in words:
        one = _find(word)
        if isinstance(one, str):
            left_out[word] = one
            continue
        for other in found:
            if (other.library, other.name, other.weights) == (one.library, one.name, one.weights):
                raise ConfigError(f"{other.word} and {word} are the same network with the same weights; name it once")
        found.append(one)
    if not found:
        raise ConfigError(
            f"nothing is left to compare: {'; '.join(f'{word}: {why}' for word, why in left_out.items())}"
        )
    return found, left_out


def missing(*packages: str) -> list[str]:
    """Those of the packages that are not installed."""
    return [package for package in packages if importlib.util.find_spec(package) is None]


def torch_has(one: Compared) -> bool:
    """Whether `build_torch` gives the network."""
    if missing("torch", "torchvision"):
        return False
    if one.library != "resnet_jax" or one.name in import_torchvision().models.list_models():
        return True
    if missing("timm"):
        return False
    import timm

    return bool(timm.is_model(one.name))


def _find(word: str) -> Compared | str:
    """A network, or why the word is left out."""
    prefix, _, rest = word.partition(":")
    library = prefix if prefix in ("timm", "torchvision") and rest else None
    name, _, weights = (rest if library else word).partition(":")
    if library is None and name in list_models(task="classify"):
        return _ours(word, name, weights)
    if library is None and name in list_models():
        raise ModelError(f"{name} is no network that names the class of an image, and only such networks are compared")
    absent = missing("torch", "torchvision", *(["timm"] if library != "torchvision" else []))  # timm needs all three
    one = None
    if library != "timm" and not {"torch", "torchvision"} & {*absent}:
        one = _of_torchvision(word, name, weights)
    if one is None and library != "torchvision" and not absent:
        one = _of_timm(word, name, asked=library == "timm")
    if one is not None:
        return one
    if absent:
        verb = "is" if len(absent) == 1 else "are"
        packages = " and ".join(absent)
        return (
            f"{name} is no network of this package, and {packages} {verb} not installed; pip install {' '.join(absent)}"
        )
    raise ModelError(unknown_name("network", name, _known(library)))


def _ours(word: str, name: str, weights: str) -> Compared:
    if name not in {known.model for known in WEIGHT_SETS}:
        if weights:
            raise WeightsError(f"{word}: no published weights of {name} are known here; write {name}")
        return Compared(word, "resnet_jax", name, "", usual_size(create_model(name)), None)
    best = find_weight_set(name, weights or "DEFAULT")
    accuracy = Published(best.accuracy["top1"], best.accuracy["top5"], "torchvision")
    return Compared(word, "resnet_jax", name, best.name, best.preset.crop, accuracy)


def _of_torchvision(word: str, name: str, weights: str) -> Compared | None:
    models = import_torchvision().models
    if name not in models.list_models(module=models):
        return None
    sets = {one.name: one for one in models.get_model_weights(name)}
    if weights and weights not in sets:
        raise WeightsError(unknown_name(f"weight set of {name}", weights, sets))
    chosen = sets[weights] if weights else models.get_model_weights(name).DEFAULT
    metrics = chosen.meta["_metrics"].get("ImageNet-1K", {})
    # A set of features without a classifier has nan.
    known = metrics and not math.isnan(metrics["acc@1"])
    accuracy = Published(metrics["acc@1"], metrics["acc@5"], "torchvision") if known else None
    return Compared(word, "torchvision", name, chosen.name, chosen.transforms().crop_size[0], accuracy)


def _of_timm(word: str, name: str, *, asked: bool) -> Compared | None:
    """With a tag, an architecture of this package is this package's, unless timm was `asked` for by name."""
    import_torchvision()  # timm imports it
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture) or (tag and name not in timm.list_pretrained(f"{architecture}.*")):
        return None
    config: Any = timm.get_pretrained_cfg(name)
    name = f"{architecture}.{config.tag}" if config.tag else architecture
    size = config.input_size[-1]
    result = RESULTS.get(name)
    accuracy = Published(*result[1:], "timm") if result and result[0] == size else None
    if not asked and architecture in list_models(task="classify"):
        return Compared(word, "resnet_jax", architecture, config.tag or "", size, accuracy)
    return Compared(word, "timm", name, config.tag or "", size, accuracy)


def _known(library: str | None) -> list[str]:
    models = import_torchvision().models
    import timm

    of = {"torchvision": models.list_models(module=models), "timm": timm.list_models() + timm.list_pretrained()}
    return of[library] if library else [*list_models(task="classify"), *of["torchvision"], *of["timm"]]
