"""Weights from PyTorch and back to it, and the published sets."""

from resnet_jax.config import Preset
from resnet_jax.files import cache_folder
from resnet_jax.weights.catalog import WEIGHT_SETS, WeightSet, class_names, find_weight_set
from resnet_jax.weights.channels import adapt_input_conv
from resnet_jax.weights.families import RESNET, Family, family_of
from resnet_jax.weights.files import read_state_dict, to_tensors, write_state_dict
from resnet_jax.weights.hub import hub_preset
from resnet_jax.weights.inflate import inflate
from resnet_jax.weights.load import find_weights, load_pretrained, load_weights, save_weights
from resnet_jax.weights.names import layout_of
from resnet_jax.weights.preprocess import preprocess
from resnet_jax.weights.recognize import candidates, head_and_channels, identify, options_in
from resnet_jax.weights.torchvision import from_torchvision, to_torchvision, translate

__all__ = [
    "RESNET",
    "WEIGHT_SETS",
    "Family",
    "Preset",
    "WeightSet",
    "adapt_input_conv",
    "cache_folder",
    "candidates",
    "class_names",
    "family_of",
    "find_weight_set",
    "find_weights",
    "from_torchvision",
    "head_and_channels",
    "hub_preset",
    "identify",
    "inflate",
    "layout_of",
    "load_pretrained",
    "load_weights",
    "options_in",
    "preprocess",
    "read_state_dict",
    "save_weights",
    "to_tensors",
    "to_torchvision",
    "translate",
    "write_state_dict",
]
