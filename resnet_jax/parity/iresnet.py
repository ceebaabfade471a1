"""insightface's face networks in PyTorch, with its names (`recognition/arcface_torch/backbones/iresnet.py`).

insightface is no package that one installs for this file, so the structure is written here once more, from its
description: Deng et al. 2018, arXiv:1801.07698, section 3.2, and the names in its published weights.
"""

from typing import Any

from resnet_jax.models.embed.table import IRESNETS


def make_iresnet(name: str, embedding_size: int = 512, *, width: int = 64) -> Any:
    """A `torch.nn.Module` for images (N, 3, H, W) of 97 to 112 pixels, freshly initialised.

    Args:
      width: channels of the first stage, for a narrow network of the same structure.
    """
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, channels: int, width: int, stride: int) -> None:
            super().__init__()
            self.bn1 = nn.BatchNorm2d(channels)
            self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.prelu = nn.PReLU(width)
            self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(width)
            self.downsample = None
            if stride != 1 or channels != width:
                self.downsample = nn.Sequential(
                    nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
                )

        def forward(self, x: Any) -> Any:
            y = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
            return y + (x if self.downsample is None else self.downsample(x))

    class IResNet(nn.Module):
        def __init__(self, stage_sizes: tuple[int, ...]) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.prelu = nn.PReLU(width)
            channels = width
            for i, size in enumerate(stage_sizes):
                blocks = []
                for j in range(size):
                    blocks.append(Block(channels, width * 2**i, 1 if j else 2))
                    channels = width * 2**i
                self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            self.bn2 = nn.BatchNorm2d(channels)
            self.fc = nn.Linear(channels * 7 * 7, embedding_size)
            self.features = nn.BatchNorm1d(embedding_size)

        def forward(self, x: Any) -> Any:
            x = self.prelu(self.bn1(self.conv1(x)))
            for i in range(4):
                x = getattr(self, f"layer{i + 1}")(x)
            return self.features(self.fc(torch.flatten(self.bn2(x), 1)))

    return IResNet(IRESNETS[name]["stage_sizes"])
