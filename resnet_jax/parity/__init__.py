"""Proof that a network here and PyTorch's of the same name agree."""

from resnet_jax.parity.comparison import CHECKS, compare, compare_networks
from resnet_jax.parity.reference import import_torchvision, make_reference, randomize
from resnet_jax.parity.report import Report, Row, Section, compare_arrays, fill_page, write_reports
from resnet_jax.parity.tolerances import TOLERANCES, Tolerances, tolerances_for
from resnet_jax.parity.training import OPTIMIZERS

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
    "randomize",
    "tolerances_for",
    "write_reports",
]
