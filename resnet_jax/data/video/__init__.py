"""Videos: their frames by number, and the clips that a network sees of them."""

from resnet_jax.data.video.base import Clip, Video
from resnet_jax.data.video.file import VideoFile
from resnet_jax.data.video.fills import EvalClip, TrainClip
from resnet_jax.data.video.frames import FrameFolder

__all__ = ["Clip", "EvalClip", "FrameFolder", "TrainClip", "Video", "VideoFile"]
