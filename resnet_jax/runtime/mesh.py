"""Devices as one axis of data parallelism, and how arrays lie on them."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from resnet_jax.config.checked import nearest_multiples
from resnet_jax.errors import ConfigError

AXIS = "data"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The devices, by default all devices of all hosts, along the axis `data`.

    The devices of a host lie together, and hosts are in their order. So the rows that host p reads are the p-th share
    of a batch. `jax.make_mesh` would not promise this order.
    """
    chosen = jax.devices() if devices is None else devices
    in_order = sorted(chosen, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(in_order), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array: parameters, statistics."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """Each device holds its share of the first dimension: batches."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def put_batch(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> dict[str, Array]:
    """Puts this host's rows on its devices, as part of global arrays whose other rows come from the other hosts."""
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}


def check_batch_size(batch_size: int, bn_group_size: int, devices: int, accumulate: int = 1) -> None:
    """Refuses a batch whose BatchNorm groups would not lie whole on the devices, in each of the parts of the batch.

    Raises:
      ConfigError: `batch_size` is not a multiple of devices x parts x group size; names the nearest multiples.
    """
    unit = devices * accumulate * max(bn_group_size, 1)
    if batch_size % unit:
        parts = f" x {accumulate} parts (accumulate)" if accumulate > 1 else ""
        group = f" x {bn_group_size} images of a BatchNorm group (model.bn_group_size)" if bn_group_size else ""
        raise ConfigError(
            f"batch_size = {batch_size} is not divisible by {unit} = {devices} device(s){parts}{group}; "
            f"the nearest that are: {nearest_multiples(batch_size, unit)}"
        )
