"""Counts what every listed network costs and stores it: `python tests/cost/store_facts.py`.

Run it where a network was added or changed on purpose, and say so in the commit. It takes a minute or two.
"""

from resnet_jax.cost.count import measure, usual_size
from resnet_jax.cost.facts import FILE, Fact, store_facts
from resnet_jax.models import create_model, list_models


def count(name: str) -> Fact:
    model = create_model(name)
    size = usual_size(model)
    return Fact(size, measure(model, image_size=size))


if __name__ == "__main__":
    store_facts({name: count(name) for name in list_models()})
    print(f"{FILE} is written")
