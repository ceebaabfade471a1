"""How the kernels of convolutions begin: the names that `weight_init=` accepts."""

from flax import linen as nn

from resnet_jax.models.layers import he_normal_fan_out, linear_kernel_init

WEIGHT_INITS: dict[str, nn.initializers.Initializer] = {
    # He et al. 2015 (arXiv:1502.01852), as torchvision has it: torch's kaiming_normal_(mode="fan_out").
    "he": he_normal_fan_out,
    # The same with the paper's own choice, the inputs of a unit: torch's kaiming_normal_(mode="fan_in").
    "he_fan_in": nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
    # Glorot & Bengio 2010: torch's xavier_normal_.
    "xavier": nn.initializers.variance_scaling(1.0, "fan_avg", "normal"),
    # LeCun et al. 1998, "Efficient BackProp": variance 1 / fan_in.
    "lecun": nn.initializers.variance_scaling(1.0, "fan_in", "normal"),
    # Krizhevsky et al. 2012 (AlexNet): a deviation of 0.01 in every layer.
    "normal_001": nn.initializers.normal(0.01),
    # What torch.nn.Conv2d does by itself: uniform in +-1 / sqrt(fan_in).
    "torch": linear_kernel_init,
}
