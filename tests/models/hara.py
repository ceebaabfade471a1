"""Hara et al. 2018 (arXiv:1711.09577) in PyTorch."""


def hara(depths, width, expansion, *, stem_frames=7, num_classes=5):
    """github.com/kenshohara/3D-ResNets-PyTorch, `models/resnet.py`, without its options: conv1 of 7x7x7, a max-pool,
    and shortcut A (`expansion` 1) or B."""
    import torch
    from torch import nn

    norm, stem = nn.BatchNorm3d, (stem_frames, 7, 7)

    class Block(nn.Module):
        def __init__(self, inputs, width, stride):
            super().__init__()
            self.stride, self.missing = stride, width * expansion - inputs
            if expansion == 1:
                self.conv1, self.bn1 = nn.Conv3d(inputs, width, 3, stride, 1, bias=False), norm(width)
                self.conv2, self.bn2 = nn.Conv3d(width, width, 3, 1, 1, bias=False), norm(width)
            else:
                self.conv1, self.bn1 = nn.Conv3d(inputs, width, 1, bias=False), norm(width)
                self.conv2, self.bn2 = nn.Conv3d(width, width, 3, stride, 1, bias=False), norm(width)
                self.conv3, self.bn3 = nn.Conv3d(width, width * 4, 1, bias=False), norm(width * 4)
            if expansion > 1 and (stride > 1 or self.missing):
                conv = nn.Conv3d(inputs, width * 4, 1, stride, bias=False)
                self.downsample = nn.Sequential(conv, norm(width * 4))

        def shortcut(self, x):
            if hasattr(self, "downsample"):
                return self.downsample(x)
            if self.stride == 1 and not self.missing:
                return x
            kept = nn.functional.avg_pool3d(x, 1, self.stride)
            return torch.cat([kept, kept.new_zeros(len(x), self.missing, *kept.shape[2:])], 1)

        def forward(self, x):
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            y = y if expansion == 1 else self.bn3(self.conv3(torch.relu(y)))
            return torch.relu(y + self.shortcut(x))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = (
                nn.Conv3d(3, width, stem, (1, 2, 2), [side // 2 for side in stem], bias=False),
                norm(width),
            )
            self.maxpool, channels = nn.MaxPool3d(3, 2, 1), width
            for i, depth in enumerate(depths):
                blocks = []
                for j in range(depth):
                    blocks.append(Block(channels, width * 2**i, 2 if i and not j else 1))
                    channels = width * 2**i * expansion
                self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            self.avgpool = nn.AdaptiveAvgPool3d(1)
            self.fc = nn.Linear(channels, num_classes) if num_classes else nn.Identity()

        def forward(self, x):
            x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
            for i in range(len(depths)):
                x = getattr(self, f"layer{i + 1}")(x)
            return self.fc(self.avgpool(x).flatten(1))

    return Net()
