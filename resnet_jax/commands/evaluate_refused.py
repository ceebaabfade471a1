"""Pictures and tables of `resnet_jax evaluate` that a network cannot have."""

from pathlib import Path

from resnet_jax.errors import ConfigError


def refuse_confusion(confusion: Path | None, network: str) -> None:
    """Raises a ConfigError for a confusion matrix of a network that names a class for each pixel."""
    if confusion is not None:
        raise ConfigError(
            f"--confusion draws how often images of one class are taken for another, and {network} names a class for "
            "each pixel; leave it out, or see --per-class"
        )


def refuse_roc(roc: Path | None, network: str) -> None:
    """Raises a ConfigError for a picture of pairs of a network without embeddings."""
    if roc is not None:
        raise ConfigError(
            f"--roc draws how well pairs of images are told apart by embeddings, and {network} gives none; leave it out"
        )


def refuse_curves(curves: Path | None, network: str) -> None:
    """Raises a ConfigError for a picture of precision and recall of a network that finds no objects."""
    if curves is not None:
        raise ConfigError(
            f"--curves draws precision against recall of objects that are found, and {network} finds none; leave it out"
        )


def refuse_for_boxes(confusion: Path | None, roc: Path | None, fold: bool, network: str) -> None:
    """Raises a ConfigError for what a network that finds objects has not."""
    refuse_roc(roc, network)
    if confusion is not None or fold:
        raise ConfigError(
            f"--confusion and --fold are for networks that name one class for a whole image, and {network} names one "
            "for each object; leave them out, or draw precision and recall by --curves FILE.png"
        )


def refuse_classes(confusion: Path | None, per_class: bool, network: str) -> None:
    """Raises a ConfigError for what a network without classes has not."""
    if confusion is not None or per_class:
        raise ConfigError(
            f"--confusion and --per-class are about classes, and {network} names none; leave them out, or draw the "
            "pairs by --roc FILE.png"
        )
