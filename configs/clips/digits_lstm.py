"""As digits.py, with a network for images on each frame, and an LSTM that reads the frames in their order.

    python train.py configs/clips/digits_lstm.py
"""

from dataclasses import replace

from configs.clips.digits import config as of_three_axes
from resnet_jax import Clips

