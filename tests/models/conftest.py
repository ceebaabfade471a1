"""The oracle: a PyTorch network with random, non-trivial weights and statistics, and what it makes of a batch."""

import re
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import pytest


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@dataclass(frozen=True)
class Oracle:
    """torchvision's and timm's networks, by name."""

    torch: Any
    torchvision: Any
    timm: Any

    def build(self, name: str, *, output_stride: int = 32, device: str = "cpu") -> Any:
        """torchvision's network of that name, else timm's (also where torchvision cannot dilate)."""
        basic = name in ("resnet18", "resnet34")
        with self.torch.device(device):
            if name not in self.torchvision.models.list_models() or (basic and output_stride < 32):
                return self.timm.create_model(name, output_stride=output_stride)
            dilate = [False, output_stride < 16, output_stride < 32]
            return self.torchvision.models.get_model(name, weights=None, replace_stride_with_dilation=dilate)

    def randomize(self, module: Any, seed: int = 0) -> Any:
        """Random float64 parameters and statistics; at its initial ones a network hides most mistakes.

        Scales are below one and statistics near those of noise images, or a deep network would amplify the rounding of
        its first layers beyond any bound.
        """
        random = self.torch.Generator().manual_seed(seed)
        noise = lambda shape: self.torch.randn(shape, generator=random, dtype=self.torch.float64)
        module = module.double()
        norms = [child for child in module.modules() if isinstance(child, self.torch.nn.BatchNorm2d)]
        for parameter in module.parameters():
            gain = (2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.3
            parameter.data = gain * noise(parameter.shape)
        for norm in (
            child for child in module.modules() if hasattr(child, "running_var") or hasattr(child, "num_groups")
        ):
            norm.weight.data = 0.15 + 0.5 * norm.weight.data
        for norm in norms:
            norm.momentum = 1.0
        with self.torch.no_grad():
            module.train()(noise((2, 3, 64, 64)))
        for norm in norms:
            norm.running_mean += 0.3 * noise(norm.running_mean.shape) * norm.running_var.sqrt()
            norm.running_var = norm.running_var.mean() * (1 + noise(norm.running_var.shape).abs())
        return module.eval()

    def variables(self, module: Any) -> dict:
        return variables_of({name: tensor.numpy() for name, tensor in module.state_dict().items()})

    def shapes(self, module: Any) -> dict:
        """As `variables`, for a module on the meta device, which has no numbers."""
        state = {
            name: np.broadcast_to(np.float32(0), tuple(tensor.shape)) for name, tensor in module.state_dict().items()
        }
        return variables_of(state)

    def outputs(self, module: Any, images: np.ndarray) -> dict[str, np.ndarray]:
        """What `ResNet` calls features; images and results are NHWC."""
        out = {}
        children = dict(module.named_modules())
        before = {"maxpool": "stem", "stem.pool": "stem", "fc": "pooled", "head.fc": "pooled"}
        after = {f"layer{i}": f"stage{i}" for i in range(1, 5)} | {f"stages.{i - 1}": f"stage{i}" for i in range(1, 5)}
        for name in children.keys() & before:
            children[name].register_forward_pre_hook(lambda _, args, name=name: out.update({before[name]: args[0]}))
        for name in children.keys() & after:
            children[name].register_forward_hook(lambda _, args, y, name=name: out.update({after[name]: y}))
        with self.torch.no_grad():
            out["logits"] = module(self.torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        as_nhwc = lambda x: (
            x.permute(0, 2, 3, 1).numpy() if x.ndim == 4 and x.shape[2:] != (1, 1) else x.flatten(1).numpy()
        )
        return {name: as_nhwc(x) for name, x in out.items()}


@pytest.fixture(scope="session")
def oracle(torchvision):
    timm = pytest.importorskip("timm")
    return Oracle(torch=pytest.importorskip("torch"), torchvision=torchvision, timm=timm)


def variables_of(state: dict[str, np.ndarray]) -> dict:
    """A state dict with torchvision's or timm's names as our variables."""
    variables: dict = {"params": {}, "batch_stats": {}}
    for key, value in state.items():
        path, leaf = key.rsplit(".", 1)
        if leaf == "num_batches_tracked":
            continue
        is_norm = state[f"{path}.weight"].ndim == 1
        path = re.sub(r"stages\.(\d)\.blocks\.", lambda match: f"layer{int(match[1]) + 1}.", path)  # timm's resnetv2
        path = re.sub(r"norm(\d)", r"bn\1", path).replace("stem.conv", "conv1").replace("head.fc", "fc")
        path = path.replace("downsample.conv", "downsample.0")
        path = re.sub(r"layer(\d)\.(\d+)", r"layer\1_\2", path)
        path = re.sub(r"^conv1\.(\d)", r"conv1_\1", path)
        path = re.sub(r"downsample\.\d", "downsample_bn" if is_norm else "downsample_conv", path)
        collection = "batch_stats" if leaf.startswith("running") else "params"
        leaf = {"running_mean": "mean", "running_var": "var"}.get(leaf, leaf)
        if leaf == "weight":
            leaf = "scale" if is_norm else "kernel"
        node = variables[collection]
        for part in path.split("."):
            node = node.setdefault(part, {})
        if path == "fc":
            value = value.reshape(value.shape[:2])
        node[leaf] = value.transpose({4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[value.ndim])
    return variables
