"""One pass of a network over images: pooled features, its own logits, and the time of the forward pass."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import data as data_lib
from jaxtl import tree
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import Spec
from jaxtl.errors import DataError, InputError
from jaxtl.host.processes import whole
from jaxtl.measure.prepared import preprocessing_of
from jaxtl.measure.transfer_scores import Observed
from jaxtl.metrics import transferability
from jaxtl.models.cost import multiply_accumulates
from jaxtl.train import compiled, sharding
from jaxtl.train.experiment import make_model
from jaxtl.train.image_size import at_size, fitted
from jaxtl.train.runtime import Runtime
from jaxtl.train.step import shapes_of
from jaxtl.types import Array, Model, Params, Row

Forward = Callable[[Params, Params, Array], Mapping[str, Array]]


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureNetwork:
  """A weight with the preprocessing of its images, as it is observed.

  Attributes:
    name: of the weight, for messages.
    model, params, batch_stats: the network at the size of its images.
    transforms: the preprocessing.
    size: side of the images in pixels.
  """

  name: str
  model: Model
  params: Params
  batch_stats: Params
  transforms: tuple[Spec, ...]
  size: int


@dataclasses.dataclass(frozen=True, eq=False)
class Pass:
  """The result of one pass.

  Attributes:
    observed: features, labels and logits of the readable images.
    rows: int [N] their indices in the source.
    seconds: of the pass, without compilation; reading and preprocessing included.
    milliseconds: of the forward pass of one image, the median over batches on all devices together.
    pixels: [N, 192] and [N, 6] area-averaged pixels and moments of the channels, by name, if asked for.
  """

  observed: Observed
  rows: np.ndarray
  seconds: float
  milliseconds: float
  pixels: Mapping[str, np.ndarray]


def feature_network(
  weights: Weights, changes: Mapping[str, Any], *, name: str, trust: bool = False
) -> FeatureNetwork:
  """Makes the network of a weight for the images that it expects.

  Args:
    weights: of a checkpoint or an import, with or without a classifier.
    changes: fields of `data.Preprocessing` that replace the weight's own.
    name: of the weight, for messages.
    trust: imports names of the config outside jaxtl and optax.

  Raises:
    InputError: the weight takes no images, has no pooled features, or its preprocessing is unknown.
    ConfigError: the model refuses the size of the images.
  """
  shape = weights.config["image_shape"]
  if len(shape) != 3:
    raise InputError(f"{name} takes texts, not images; give weights that take images")
  transforms, (height, width) = preprocessing_of(weights, changes, trust=trust)
  if height != width:
    raise InputError(f"{name} takes images of {height} x {width}; expected square ones")
  return for_images(weights, transforms, height, name=name, trust=trust)


def for_images(
  weights: Weights, transforms: tuple[Spec, ...], size: int, *, name: str, trust: bool = False
) -> FeatureNetwork:
  """Makes the network of a weight for square images of a size, whatever the weight itself expects.

  Args:
    weights: of a checkpoint or an import.
    transforms: the preprocessing that makes these images.
    size: their side in pixels.
    name, trust: as in `feature_network`.

  Raises:
    InputError, ConfigError: as in `feature_network`.
  """
  spec = weights.model_spec(trust=trust)
  _, params = fitted(spec, weights, size)
  model = make_model(at_size(spec, size), num_classes=len(weights.classes))
  found = FeatureNetwork(name, model, params, weights.batch_stats, transforms, size)
  if "pooled" not in _features(found):
    raise InputError(
      f"{name} ({model.name}) has no pooled features, from which scores are computed; give a classifier or "
      "its backbone"
    )
  return found


def untrained(given: FeatureNetwork, *, seed: int = 0) -> FeatureNetwork:
  """Returns the same network with fresh parameters and statistics, and without its head's classes."""
  images = jnp.zeros((1, given.size, given.size, 3))
  params, batch_stats = jax.jit(given.model.init)(jax.random.key(seed), images)
  return dataclasses.replace(
    given, name=f"{given.model.name}, untrained", params=params, batch_stats=batch_stats
  )


def about(given: FeatureNetwork) -> Row:
  """Describes a network: architecture, parameters and arithmetic without images being read.

  Returns:
    "architecture"; "image_size"; "features", the width D; "parameters" without the head; and
    "multiply_accumulates" of one forward pass of one image with its own head, None if they are not countable.
  """
  head = given.model.head
  kept = {block: value for block, value in given.params.items() if block != head}
  return {
    "architecture": given.model.name,
    "image_size": given.size,
    "features": int(_features(given)["pooled"].shape[-1]),
    "parameters": int(tree.size(kept)),
    "multiply_accumulates": _arithmetic(given),
  }


def _arithmetic(given: FeatureNetwork) -> int | None:
  variables = shapes_of(given.model, (given.size, given.size, 3))
  one = jax.ShapeDtypeStruct((1, given.size, given.size, 3), jnp.float32)
  try:
    return multiply_accumulates(
      lambda made, image: given.model.apply(made["params"], made["batch_stats"], image)[0], variables, one
    )
  except InputError:  # a loop without a fixed number of steps
    return None


def _features(given: FeatureNetwork) -> Mapping[str, Any]:
  """Returns the shapes of the features of one image."""
  one = jax.ShapeDtypeStruct((1, given.size, given.size, 3), jnp.float32)
  found, _ = jax.eval_shape(given.model.apply, given.params, given.batch_stats, one)
  return found


@compiled.kept
def _forward(model: Model) -> Forward:
  """Jits (params, batch_stats, image) -> float32 pooled [B, D], and logits [B, Z] if there is a head."""

  def forward(params: Params, batch_stats: Params, image: Array) -> dict[str, Array]:
    found, _ = model.apply(params, batch_stats, image)
    return {name: found[name].astype(jnp.float32) for name in ("pooled", "logits") if name in found}

  return jax.jit(forward)


def observe(
  given: FeatureNetwork,
  source: Any,
  *,
  batch_size: int,
  runtime: Runtime,
  bad_records: data_lib.BadRecords,
  seed: int = 0,
  with_pixels: bool = False,
) -> Pass:
  """Observes every readable image of a source once, the batches split over the devices.

  Args:
    given: the network and its preprocessing.
    source: the images.
    batch_size: images per batch, over all devices and processes.
    runtime: the devices and the status line.
    bad_records: the budget of unreadable images.
    seed: of folds and samples of the scores.
    with_pixels: also summarises the pixels, for controls without a network.

  Raises:
    DataError: the images have another size than the network, or none can be read.
    ConfigError: the batch does not split over the devices.
  """
  sharding.check_batch_size(batch_size, runtime.mesh, at="--batch-size")
  batches = data_lib.eval_batches(
    source,
    [spec.realize() for spec in given.transforms],
    batch_size=batch_size,
    shard=(jax.process_index(), jax.process_count()),
    bad_records=bad_records,
  )
  parts: list[dict[str, np.ndarray]] = []
  times: list[float] = []
  seconds = 0.0
  for batch, outputs, taken, passed in _outputs(given, _sized(batches, given, source.name), runtime):
    # As arrays of this process alone, so that the next batch does not hold this one on the device.
    parts.append(outputs | _summaries(batch, with_pixels))
    times.append(taken)
    seconds += passed
  joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
  mask = joined.pop("mask")
  if not mask.any():
    raise DataError(f"{source.name}: no image can be read")
  kept = {name: values[mask] for name, values in joined.items()}
  observed = Observed(kept.pop("pooled"), kept.pop("label"), kept.pop("logits", None), seed)
  return Pass(observed, np.flatnonzero(mask), seconds, 1000 * float(np.median(times)) / batch_size, kept)


def _outputs(
  given: FeatureNetwork, batches: Iterator[Mapping[str, np.ndarray]], runtime: Runtime
) -> Iterator[tuple[Mapping[str, Any], dict[str, np.ndarray], float, float]]:
  """Yields each batch on the devices, its outputs, and the seconds of the forward pass and of the whole."""
  forward = _forward(given.model)
  params = sharding.put_replicated(given.params, runtime.mesh)
  batch_stats = sharding.put_replicated(given.batch_stats, runtime.mesh)
  asked = time.perf_counter()
  for number, batch in enumerate(batches):
    there = sharding.put_batch(batch, runtime.mesh)
    if number == 0:
      read = time.perf_counter() - asked
      jax.block_until_ready(forward(params, batch_stats, there["image"]))  # compiles
      asked = time.perf_counter() - read
    began = time.perf_counter()
    found = jax.block_until_ready(forward(params, batch_stats, there["image"]))
    taken = time.perf_counter() - began
    here = {name: whole(array) for name, array in found.items()}
    here |= {name: whole(there[name]) for name in ("label", "mask")}
    runtime.beat()
    now = time.perf_counter()
    images = len(here["mask"])
    runtime.progress.advance(
      images, f"image {(number + 1) * images}", images_per_second=images / (now - asked)
    )
    yield there, here, taken, now - asked
    asked = time.perf_counter()


def _summaries(batch: Mapping[str, Any], wanted: bool) -> dict[str, np.ndarray]:
  if not wanted:
    return {}
  images = whole(batch["image"])
  return {
    "pixels": transferability.pixel_features(images).astype(np.float32),
    "colors": transferability.color_features(images).astype(np.float32),
  }


def _sized(batches: Any, given: FeatureNetwork, name: str) -> Iterator[Mapping[str, np.ndarray]]:
  """Yields the same batches; raises DataError if their images have another size than the network."""
  for batch in batches:
    height, width = batch["image"].shape[1:3]
    if (height, width) != (given.size, given.size):
      raise DataError(
        f"{name} gives images of {height} x {width}, and the preprocessing of {given.name} does not resize "
        f"them to {given.size} x {given.size}; give --image-size {given.size}"
      )
    yield batch
