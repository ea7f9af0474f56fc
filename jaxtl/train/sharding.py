"""Meshes, and where arrays live on them: `jax.jit` with `NamedSharding` over all devices.

A placement is a function (path, shape, mesh) -> PartitionSpec that is called for every array of the state:
parameters, their optimiser state (whose paths have the same ends) and statistics. It changes where numbers
are, not what they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxtl import tree
from jaxtl.errors import ConfigError
from jaxtl.optim import passes, plain
from jaxtl.types import Array, Batch, GradientRule, LossFn, Metrics, Params, ValueAndGrad

DATA, MODEL = "data", "model"
Placement = Callable[[str, tuple[int, ...], Mesh], PartitionSpec]


def make_mesh(num_devices: int | None = None, *, model: int = 1) -> Mesh:
  """Makes a (data, model) mesh over the first `num_devices` devices, or all if it is None.

  Args:
    model: devices along the model axis; the batch is split over the others.

  Raises:
    ConfigError: there are not as many devices, or `model` does not divide them.
  """
  devices = jax.devices()
  count = len(devices) if num_devices is None else num_devices
  if not 0 < count <= len(devices):
    raise ConfigError(f"num_devices is {count}; this run sees {len(devices)} {devices[0].platform} devices")
  if model < 1 or count % model:
    raise ConfigError(f"model_devices is {model}, which does not divide the {count} devices; write a divisor")
  # Explicit axes, the default, do not work under vmap.
  return jax.make_mesh(
    (count // model, model), (DATA, MODEL), axis_types=(AxisType.Auto,) * 2, devices=devices[:count]
  )


def replicate() -> Placement:
  """Places every array whole on every device."""
  return lambda path, shape, mesh: PartitionSpec()


def fsdp(*, min_size: int = 2**14, axis: str = DATA) -> Placement:
  """Splits every large array over the devices of the axis, along its largest dimension that divides evenly.

  Rajbhandari, Rasley, Ruwase, He, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
  2020, arXiv 1910.02054 (stage 3): parameters, gradients and optimiser state are split; XLA gathers those of
  a layer where they are used.

  Args:
    min_size: size below which an array stays whole: splitting it would cost more than it saves.
    axis: of the mesh.
  """
  _check_axis("fsdp", axis)

  def place(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    parts = mesh.shape[axis]
    fitting = [(size, at) for at, size in enumerate(shape) if size % parts == 0]
    if parts == 1 or int(np.prod(shape)) < min_size or not fitting:
      return PartitionSpec()
    # The last of the largest: output channels rather than input channels, so that biases split alike.
    _, at = max(fitting)
    return PartitionSpec(*(axis if i == at else None for i in range(len(shape))))

  return place


def by_path(
  *, rules: Sequence[tuple[str, Sequence[str | None]]], otherwise: Placement | None = None
) -> Placement:
  """Places arrays by the first rule (path regex, axis or None for each dimension) that matches the path.

  Args:
    rules: for example `("attention/(query|key|value)/kernel$", (None, "model"))`.
    otherwise: places arrays that no rule matches; None keeps them whole on every device.
  """
  rest = otherwise or replicate()
  compiled = [(_compiled(pattern), tuple(axes)) for pattern, axes in rules]
  for pattern, axes in rules:
    used = [axis for axis in axes if axis is not None]
    for axis in used:
      _check_axis(f"the rule {pattern!r}", axis)
    if len(set(used)) < len(used):
      raise ConfigError(f"the sharding rule {pattern!r} has an axis twice; each may split one dimension")

  def place(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    for pattern, axes in compiled:
      if not pattern.search(path):
        continue
      if len(axes) != len(shape):
        raise ConfigError(
          f"the sharding rule {pattern.pattern!r} has {len(axes)} axes; {path} has the shape {list(shape)}"
        )
      for size, axis in zip(shape, axes):
        if axis is not None and size % mesh.shape[axis]:
          raise ConfigError(
            f"the sharding rule {pattern.pattern!r} splits {path} {list(shape)} over {mesh.shape[axis]} "
            f"devices of the {axis} axis, which do not divide {size}"
          )
      return PartitionSpec(*axes)
    return rest(path, shape, mesh)

  return place


def placed(values: Any, placement: Placement, mesh: Mesh) -> Any:
  """Returns the `NamedSharding` of every array in a tree of arrays or shapes."""
  return tree.map_with_path(
    lambda path, x: NamedSharding(mesh, placement(path, tuple(x.shape), mesh)), values
  )


def hold(step: Callable[..., Any], placement: Placement, mesh: Mesh) -> Callable[..., Any]:
  """Wraps the training step: its state stays where the placement puts it, its metrics are on every device."""

  def held(state: Any, batch: Batch, key: Array) -> tuple[Any, Metrics]:
    after, metrics = step(state, batch, key)
    after = jax.lax.with_sharding_constraint(after, placed(after, placement, mesh))
    return after, jax.lax.with_sharding_constraint(metrics, replicated(mesh))

  return held


def per_device(*, inner: GradientRule | None = None, mesh: Mesh | None = None) -> GradientRule:
  """Takes the gradient of each device's own rows and averages the gradients, as with `pmap`.

  So each device has its own batch statistics (their running averages are averaged), and its own perturbation
  under an inner SAM rule. This is the m-sharpness of the paper, with m the number of rows of a device. Unlike
  `sam(groups=...)` it depends on the number of devices. Foret et al., 2021, arXiv 2010.01412, section 4.1.

  Args:
    inner: the rule of every device.
    mesh: the devices; a config leaves it to the run.

  Raises:
    ConfigError: the inner rule remembers something between steps.
  """
  rule = inner or plain()
  if getattr(rule, "init_memory", None):
    raise ConfigError("per_device takes a stateless inner rule (plain, accumulate, sam, asam)")
  return _PerDevice(rule, mesh, passes(rule))


class _PerDevice:
  def __init__(self, rule: GradientRule, mesh: Mesh | None, cost: float):
    self._rule, self._mesh, self.passes = rule, mesh, cost

  def __call__(self, loss_fn: LossFn) -> ValueAndGrad:
    value_and_grad = self._rule(loss_fn)

    def own(params: Params, batch_stats: Params, batch: Batch, key: Array) -> Any:
      key = jax.random.fold_in(key, jax.lax.axis_index(DATA))
      count = jnp.sum(batch["mask"], dtype=jnp.float32) if "mask" in batch else jnp.float32(1)
      share = count / jnp.maximum(jax.lax.psum(count, DATA), 1)
      (loss, aux), grads = value_and_grad(params, batch_stats, batch, key)
      mean = lambda x: jax.lax.psum(share.astype(x.dtype) * x, DATA)  # noqa: E731
      return jax.tree.map(mean, ((loss, aux), grads))

    # Without vma checks a gradient with respect to replicated parameters is the device's own; with them it
    # is summed over all devices before a rule sees it, and the perturbation would be a global one.
    return jax.shard_map(
      own,
      mesh=self._mesh,
      in_specs=(PartitionSpec(), PartitionSpec(), PartitionSpec(DATA), PartitionSpec()),
      out_specs=PartitionSpec(),
      check_vma=False,
    )


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding that holds the same array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def over_data(mesh: Mesh) -> NamedSharding:
  """Returns the sharding that splits the leading axis over the data axis."""
  return NamedSharding(mesh, PartitionSpec(DATA))


def put_batch(batch: Mapping[str, Any], mesh: Mesh) -> Batch:
  """Puts this process's rows [B / processes, ...] into global arrays [B, ...], split over the data axis.

  Arrays that are already on the devices stay there, and a batch within the batch is treated the same way.

  Raises:
    ConfigError: the devices of the data axis do not divide the number of rows.
  """
  sharding = over_data(mesh)

  def put_rows(rows: Any) -> Array:
    if isinstance(rows, jax.Array):
      return rows
    check_batch_size(len(rows) * jax.process_count(), mesh, at="the number of rows of a batch")
    return jax.make_array_from_process_local_data(sharding, rows)

  return jax.tree.map(put_rows, dict(batch))


def own_rows(x: Array) -> np.ndarray:
  """Returns this process's rows of an array that is split over the data axis: the inverse of `put_batch`."""
  parts = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
  return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])


def put(values: Any, placement: Placement, mesh: Mesh) -> Any:
  """Copies the tree to the devices: a step that donates its state must not delete the source.

  Every process holds all of the values, and gives its devices their parts.
  """

  def put_one(x: Any, sharding: NamedSharding) -> Array:
    values = np.array(x)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

  return jax.tree.map(put_one, values, placed(values, placement, mesh))


def put_replicated(values: Any, mesh: Mesh) -> Any:
  """Copies the tree, whole, to every device."""
  return put(values, replicate(), mesh)


def bytes_per_device(values: Any, placement: Placement, mesh: Mesh) -> int:
  """Returns the bytes of a tree of arrays or shapes on the device that holds the most of it."""
  shardings = jax.tree.leaves(placed(values, placement, mesh))
  leaves = jax.tree.leaves(values)
  return sum(
    int(np.prod(sharding.shard_shape(tuple(x.shape)))) * x.dtype.itemsize
    for x, sharding in zip(leaves, shardings, strict=True)
  )


def check_batch_size(batch_size: int, mesh: Mesh, *, at: str) -> None:
  """Refuses a global batch that does not split evenly over the data axis."""
  devices = mesh.shape[DATA]
  if batch_size % devices:
    near = max(devices, round(batch_size / devices) * devices)
    raise ConfigError(f"{at} is {batch_size}, which {devices} devices do not divide; write {near}")


def whole_batch(num_images: int, mesh: Mesh) -> int:
  """Returns the smallest batch that holds `num_images` and splits evenly over the data axis."""
  devices: int = mesh.shape[DATA]
  return max(-(-num_images // devices), 1) * devices


def _compiled(pattern: str) -> re.Pattern[str]:
  try:
    return re.compile(pattern)
  except re.error as error:
    raise ConfigError(f"the sharding rule {pattern!r} is not a regular expression: {error}") from None


def _check_axis(what: str, axis: str) -> None:
  if axis not in (DATA, MODEL):
    raise ConfigError(f"{what} names the axis {axis!r}; the mesh has {DATA!r} and {MODEL!r}")
