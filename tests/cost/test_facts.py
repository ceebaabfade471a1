"""The stored table of costs is what counting gives; `python tests/cost/store_facts.py` stores it anew."""

import pytest

from resnet_jax.cost import facts
from resnet_jax.cost.facts import stored_facts
from resnet_jax.models import list_models

from .store_facts import count

STORED = stored_facts()


def test_every_network_has_a_row_and_every_row_a_network():
    """In the same order, in which the command prints them."""
    assert list(STORED) == list_models()


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "seresnet18",
        "resnetv2_18",
        "cifar_plain20",
        "cifar_wide_resnet16_8",
        "fcn_resnet50",
        "unet_resnet34",
    ],
)
def test_a_network_costs_what_is_stored(name):
    """The parameters of all, and the arithmetic of more, are compared in tests/models/test_facts.py."""
    assert STORED[name] == count(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_every_network_costs_what_is_stored(name):
    assert STORED[name] == count(name)


def test_what_is_stored_is_what_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "FILE", tmp_path / "facts.json")
    some = {name: fact for name, fact in STORED.items() if name.startswith("cifar")}
    facts.store_facts(some)
    assert list(stored_facts().items()) == list(some.items())
    assert {fact.image_size for fact in some.values()} == {32}
