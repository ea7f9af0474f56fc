"""Meshes, and where arrays live on them: `jax.jit` with `NamedSharding` over all devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxtl.errors import ConfigError
from jaxtl.types import Batch

DATA, MODEL = "data", "model"


def make_mesh(num_devices: int | None = None) -> Mesh:
  """A (data, model) mesh over the first `num_devices` devices, all where None; the model axis is 1."""
  devices = jax.devices()
  count = len(devices) if num_devices is None else num_devices
  if not 0 < count <= len(devices):
    raise ConfigError(f"num_devices is {count}; this run sees {len(devices)} {devices[0].platform} devices")
  # Explicit axes, the default, do not work under vmap.
  return jax.make_mesh((count, 1), (DATA, MODEL), axis_types=(AxisType.Auto,) * 2, devices=devices[:count])


def replicated(mesh: Mesh) -> NamedSharding:
  """The same array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def over_data(mesh: Mesh) -> NamedSharding:
  """The leading axis split over the data axis."""
  return NamedSharding(mesh, PartitionSpec(DATA))


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> Batch:
  """This process's rows [B / processes, ...] as global arrays [B, ...], split over the data axis."""
  sharding = over_data(mesh)
  return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}


def put_replicated(values: Any, mesh: Mesh) -> Any:
  """A copy of the tree on every device: a step that donates its state must not delete the source."""
  sharding = replicated(mesh)
  return jax.tree.map(lambda x: jax.device_put(np.array(x), sharding), values)


def check_batch_size(batch_size: int, mesh: Mesh, *, at: str) -> None:
  """Refuses a global batch that does not split evenly over the data axis."""
  devices = mesh.shape[DATA]
  if batch_size % devices:
    near = max(devices, round(batch_size / devices) * devices)
    raise ConfigError(f"{at} is {batch_size}, which {devices} devices do not divide; write {near}")
