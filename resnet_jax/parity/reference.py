"""PyTorch's network of the same name, with weights that hide no error."""

import sys
from typing import Any

from resnet_jax.errors import WeightsError, unknown_name
from resnet_jax.models.embed.table import IRESNETS
from resnet_jax.parity.iresnet import make_iresnet


def import_torchvision() -> Any:
    """torchvision, even if its compiled operators do not fit the build of torch: no ResNet calls one of them.

    Raises:
      WeightsError: torch or torchvision is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            "torch is needed to compare with; install it with `pip install torch torchvision`"
        ) from error
    try:
        import torchvision
    except ImportError as error:
        raise WeightsError("torchvision is needed to compare with; `pip install torchvision`") from error
    except RuntimeError:  # "operator torchvision::nms does not exist": define the operators, and import again
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        import torchvision
    return torchvision


def make_reference(name: str, num_classes: int = 1000, *, aux_loss: bool = True) -> Any:
    """torchvision's network called `name`, or timm's if torchvision has none, freshly initialised. `unet_...` is
    segmentation_models_pytorch's, `iresnet...` insightface's.

    Args:
      num_classes: or the numbers of an embedding.
      aux_loss: whether a network for segmentation has an auxiliary head. Such a network drops no numbers in training.

    Raises:
      WeightsError: none has a network of that name, or a package is not installed.
    """
    models = import_torchvision().models
    known = models.list_models()
    if name in IRESNETS:
        return make_iresnet(name, num_classes)
    if name.startswith("unet_"):
        return _make_unet(name.removeprefix("unet_"), num_classes)
    if name in models.list_models(models.segmentation):
        module = models.get_model(name, weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=aux_loss)
        return drop_nothing(module)
    if name in known:
        return models.get_model(name, weights=None, num_classes=num_classes)
    try:
        import timm
    except ImportError as error:
        raise WeightsError(f"torchvision has no {name!r}; for timm's networks `pip install timm`") from error
    if not timm.is_model(name):
        nets = [known for known in (*known, *timm.list_models()) if "resne" in known]
        raise WeightsError(unknown_name("network of torchvision or timm", name, nets))
    return timm.create_model(name, pretrained=False, num_classes=num_classes)


def _make_unet(encoder: str, num_classes: int) -> Any:
    """segmentation_models_pytorch's U-Net. It refuses images whose sides are no multiple of 32; such images are filled
    up with zeros below and on the right here, and the logits are cut to the image."""
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise WeightsError(
            f"segmentation_models_pytorch is needed to compare unet_{encoder} with; install it with "
            "`pip install segmentation-models-pytorch`"
        ) from error
    import torch

    class Unet(smp.Unet):
        def forward(self, images: Any) -> Any:
            height, width = images.shape[2:]
            padded = torch.nn.functional.pad(images, (0, -width % 32, 0, -height % 32))
            return super().forward(padded)[..., :height, :width]

    known = smp.encoders.get_encoder_names()
    if encoder not in known:
        raise WeightsError(unknown_name("encoder of segmentation_models_pytorch", encoder, known))
    return Unet(encoder, encoder_weights=None, classes=num_classes)


def drop_nothing(module: Any) -> Any:
    """The module, whose dropouts drop nothing from now on."""
    import torch

    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return module


def randomize(module: Any, images: Any, seed: int = 0) -> None:
    """Gives every BatchNorm of `module` a scale, a bias and running statistics of its own, in place.

    At initialisation, scale 1, bias 0, mean 0 and variance 1 (or scale 0 at the end of a branch) hide most errors of a
    port. The statistics are those of `images` (N, C, H, W), disturbed at random. So activations keep a moderate size,
    however deep the network is. For the same reason the norm that ends a branch gets a small scale. With large scales
    the gradients of a deep network explode, and training it multiplies rounding errors by 100 in every step.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)

    def draw(like: Any, low: float, high: float) -> Any:
        return torch.empty(like.shape, dtype=torch.float64).uniform_(low, high, generator=generator).to(like.dtype)

    kinds = torch.nn.BatchNorm1d | torch.nn.BatchNorm2d | torch.nn.BatchNorm3d
    norms: list[Any] = [norm for norm in module.modules() if isinstance(norm, kinds)]
    last = {_last_norm(block) for block in module.modules()}
    with torch.no_grad():
        for norm in norms:
            norm.weight.copy_(draw(norm.weight, *((0.1, 0.3) if norm in last else (0.5, 1.5))))
            norm.bias.copy_(draw(norm.bias, -0.5, 0.5))
            norm.momentum = 1.0  # one pass then sets the running statistics to those of `images`
        layers = (
            part for part in module.modules() if isinstance(part, torch.nn.Linear | torch.nn.Conv2d | torch.nn.Conv3d)
        )
        for bias in (layer.bias for layer in layers if layer.bias is not None):
            bias.copy_(draw(bias, -0.5, 0.5))
        for slope in (part.weight for part in module.modules() if isinstance(part, torch.nn.PReLU)):
            slope.copy_(draw(slope, 0.1, 0.4))
        module.train()(images)
        for norm in norms:
            norm.momentum = 0.1
            norm.running_mean.add_(draw(norm.running_mean, -0.5, 0.5) * norm.running_var.sqrt())
            norm.running_var.mul_(draw(norm.running_var, 0.5, 2.0))
            norm.num_batches_tracked.fill_(int(torch.randint(1, 1_000_000, (), generator=generator)))


def _last_norm(block: Any) -> Any:
    """The norm that ends the branch of a residual block; None of other modules."""
    import torch

    for name in ("bn3", "bn2", "conv3", "conv2"):
        if (part := getattr(block, name, None)) is None:
            continue
        if not name.startswith("conv"):
            return part
        if isinstance(part, torch.nn.Sequential):  # of torchvision's networks for video: convolution and norm
            return part[1]
    return None
