"""Compares a network of this package with PyTorch's network of the same name, to prove that they agree."""

from resnet_jax.parity.comparison import CHECKS, compare, compare_networks
from resnet_jax.parity.reference import import_torchvision, make_reference, randomize
from resnet_jax.parity.report import Report, Row, Section, compare_arrays, fill_page, write_reports
from resnet_jax.parity.settings import OPTIMIZERS, names_of
from resnet_jax.parity.tolerances import TOLERANCES, Tolerances, tolerances_for

__all__ = [
    "CHECKS",
    "OPTIMIZERS",
    "TOLERANCES",
    "Report",
    "Row",
    "Section",
    "Tolerances",
    "compare",
    "compare_arrays",
    "compare_networks",
    "fill_page",
    "import_torchvision",
    "make_reference",
    "names_of",
    "randomize",
    "tolerances_for",
    "write_reports",
]
