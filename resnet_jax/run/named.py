"""The network that the first word of a command names: a run's, or one whose weights come without a run."""

from pathlib import Path
from typing import Literal

from resnet_jax.config import AS_PUBLISHED, Clips, Detect, Embed, PresetChange, Segment
from resnet_jax.errors import ConfigError
from resnet_jax.files import is_remote
from resnet_jax.models import list_models
from resnet_jax.models.embed.network import Embedder
from resnet_jax.run.network import Network, load_network
from resnet_jax.run.predict import Run, load_run
from resnet_jax.tasks.clips.task import is_video_network
from resnet_jax.tasks.detect.task import is_detector
from resnet_jax.tasks.embed.loss import without_own
from resnet_jax.tasks.segment.task import is_segmenter
from resnet_jax.weights.hub import is_repository


def open_named(
    name: str,
    checkpoint: Literal["last", "best"] = "last",
    model: str | None = None,
    *,
    preset: PresetChange = AS_PUBLISHED,
) -> Run | Network:
    """The run or the network that `name` names.

    Args:
      name: a run's folder, a weight file, a folder that timm loads, or a published set: `resnet50` or
        `resnet50:IMAGENET1K_V1`.
      checkpoint: the checkpoint to take, where it is a run.
      model: the name of the network in a file; by default its keys and shapes decide.
      preset: how images are prepared for weights without a run, where it is not as the weights say.

    Raises:
      ConfigError, CheckpointError, WeightsError: it names no network, or the network cannot be read.
    """
    published, _, weight_set = name.partition(":")
    if not is_remote(name) and (Path(name).is_file() or is_repository(name)):
        return load_network(name, model, preset=preset)
    if published in list_models() and not Path(name).is_dir():
        return load_network(weight_set or "DEFAULT", published, preset=preset)
    if not is_remote(name) and not Path(name).exists():
        raise ConfigError(
            f"there is no {name}; name the folder of a run, a weight file, or a network whose weights are published, "
            "such as resnet50"
        )
    return load_run(name, checkpoint)


def network_of(run: Run) -> Network:
    """A run's network, as evaluation uses it: with the run's own preparation of images, and without what only the loss
    needs. A network for embeddings names no class, so it has no names of those that it was trained on."""
    variables, names = without_own(run.state.eval_variables), () if embeds(run) else run.class_names
    return Network(run.title, run.model, variables, run.config.data.preset, names)


def segments(opened: Run | Network) -> bool:
    """Whether it names a class for each pixel."""
    return isinstance(opened.config.task, Segment) if isinstance(opened, Run) else is_segmenter(opened.model)


def detects(opened: Run | Network) -> bool:
    """Whether it finds objects."""
    return isinstance(opened.config.task, Detect) if isinstance(opened, Run) else is_detector(opened.model)


def embeds(opened: Run | Network) -> bool:
    """Whether it gives embeddings, and names no class."""
    return isinstance(opened.config.task, Embed) if isinstance(opened, Run) else isinstance(opened.model, Embedder)


def sees_videos(opened: Run | Network) -> bool:
    """Whether it names a class for a video."""
    return isinstance(opened.config.task, Clips) if isinstance(opened, Run) else is_video_network(opened.model)


def check_classifies(opened: Run | Network, *, or_embeds: bool = False) -> None:
    """Raises a ConfigError for a network that names a class for each pixel, each object or a video, or none.

    Args:
      or_embeds: take networks for embeddings too.
    """
    if embeds(opened) and not or_embeds:
        raise ConfigError(
            f"{opened.title} gives embeddings and names no class, and this is for networks that name one. To compare "
            "images use verify or identify, to keep embeddings use features --stages embedding (docs/embeddings.md)"
        )
    if sees_videos(opened):
        raise ConfigError(
            f"{opened.title} names a class for a video, and this is for networks that look at single images. Use "
            "predict VIDEO, or evaluate (docs/video.md), or name another network"
        )
    if detects(opened):
        raise ConfigError(
            f"{opened.title} names a class for each object, and this is for networks that name one class for a whole "
            "image. Use predict IMAGE --out FOLDER, or evaluate (docs/detection.md), or name another network"
        )
    if segments(opened):
        raise ConfigError(
            f"{opened.title} names a class for each pixel, and this is for networks that name one class for a whole "
            "image. Use predict IMAGE --out FOLDER, or evaluate (docs/segmentation.md), or name another network"
        )
