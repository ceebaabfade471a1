"""Videos: their frames by number, and the clips that a network sees of them."""

from resnet_jax.data.video.base import Clip, Video
from resnet_jax.data.video.fills import EvalClip, TrainClip

__all__ = ["Clip", "EvalClip", "TrainClip", "Video"]
