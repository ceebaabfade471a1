"""A peer: Keras applications on Keras' JAX backend, trained as Keras' guide to training loops in JAX does."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from resnet_jax.cost import speed

CLASSES = {"resnet50": "ResNet50", "resnet101": "ResNet101", "resnet152": "ResNet152"}


def keras_program(name: str, images: Any, labels: Any, dtype: str, train: bool) -> speed.Program:
    """Its networks stride in the first 1x1 (v1), have biases in convolutions, and statistics over the whole batch."""
    if name not in CLASSES:
        raise LookupError(f"Keras has no {name}, but {', '.join(CLASSES)}")
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    if dtype != "float32":
        keras.mixed_precision.set_global_policy(f"mixed_{dtype}")
    model = getattr(keras.applications, CLASSES[name])(weights=None, classifier_activation=None)
    trained, other = ([v.value for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables))
    if not train:
        forward = jax.jit(lambda trained, other, images: model.stateless_call(trained, other, images)[0])
        compiled, seconds = speed.compile_for(forward, trained, other, images)
        return _program(partial(compiled, trained, other, images), compiled, images, seconds)

    optimizer = keras.optimizers.SGD(1e-3, momentum=0.9, weight_decay=1e-4)
    optimizer.build(model.trainable_variables)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def loss(trained: Any, other: Any, images: Any, labels: Any) -> Any:
        logits, other = model.stateless_call(trained, other, images, training=True)
        return jnp.mean(cross_entropy(labels, logits)), other

    def step(state: Any, images: Any, labels: Any) -> Any:
        trained, other, moments = state
        (value, other), gradient = jax.value_and_grad(loss, has_aux=True)(trained, other, images, labels)
        trained, moments = optimizer.stateless_apply(moments, gradient, trained)
        return (trained, other, moments), value

    state = (trained, other, [variable.value for variable in optimizer.variables])
    compiled, seconds = speed.compile_for(jax.jit(step, donate_argnums=0), state, images, labels)
    return _program(speed.repeating(compiled, state, images, labels), compiled, images, seconds)


def _program(launch: Callable[[], Any], compiled: Any, images: Any, seconds: float) -> speed.Program:
    return speed.Program("keras", launch, len(images), seconds, speed.peak_bytes(compiled))
