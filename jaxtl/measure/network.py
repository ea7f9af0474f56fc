"""The network of a checkpoint, adapted to the images on which a study measures it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtl import config as config_lib
from jaxtl import data as data_lib
from jaxtl import tree
from jaxtl.checkpoints import checkpoint, manifest
from jaxtl.config import Spec
from jaxtl.data.class_names import same_classes
from jaxtl.errors import InputError
from jaxtl.host.remember import remember
from jaxtl.measure.losses import training_loss
from jaxtl.measure.prepared import prepare, task_of
from jaxtl.tasks import LogitsLoss
from jaxtl.train.experiment import check_source_targets, check_target_shapes
from jaxtl.train.image_size import fitted
from jaxtl.train.inputs import Data
from jaxtl.train.runtime import Runtime
from jaxtl.types import ExampleLoss, Model, Params, Row


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
  """A checkpoint that is adapted to its images.

  Attributes:
    model, params, batch_stats: the network.
    loss: (features, batch) -> [B], the loss that it was trained with.
    model_spec, task: the specs of its model and its task.
  """

  model: Model
  params: Params
  batch_stats: Params
  loss: ExampleLoss
  model_spec: Spec
  task: Spec

  @property
  def classifies(self) -> bool:
    """True for a classification, which also has a cross-entropy."""
    return isinstance(self.loss, LogitsLoss)


def prepared(start: str, data: Data, runtime: Runtime) -> tuple[Data, Network]:
  """Returns the images with their transforms, and the network of a checkpoint for their size.

  Data without transforms use those of the checkpoint.
  """
  data = filled(start, data, trust=runtime.trust)
  return data, network(start, runtime.image_shape(data)[0], trust=runtime.trust)


def filled(start: str, data: Data, *, trust: bool) -> Data:
  """The images with the checkpoint's own transforms if they have none."""
  if data.transforms:
    return data
  return dataclasses.replace(data, transforms=prepare(loaded(start), {}, trust=trust).transforms)


def network(start: str, size: int, *, trust: bool) -> Network:
  """Returns the network of a checkpoint for square images of `size` pixels."""
  return _network(start, digest(start), size, trust)


@functools.lru_cache(maxsize=4)  # lets losses and seeds share what is compiled for a network
def _network(start: str, digest: str, size: int, trust: bool) -> Network:
  del digest  # part of the cache key: other weights at the same place are another network
  weights = loaded(start)
  task = task_of(weights, trust=trust)
  spec = weights.model_spec(trust=trust)
  model, params = fitted(spec, weights, size)
  loss = training_loss(task.realize(num_classes=len(weights.classes)))
  return Network(model, params, weights.batch_stats, loss, spec, task)


def loaded(start: str) -> checkpoint.Weights:
  """Returns the checkpoint, which is read only once."""
  return _load(start, digest(start))


@functools.lru_cache(maxsize=2)
def _load(start: str, digest: str) -> checkpoint.Weights:
  del digest
  return checkpoint.load(start)


def digest(start: str) -> str:
  """Returns 16 hexadecimal digits of a checkpoint's manifest, which holds the digest of every array."""
  return manifest.read(checkpoint.find(start)).digest[:16]


def about(start: str, found: Network) -> Row:
  """Describes the weights and the type in which they compute."""
  return {
    "checkpoint": start,
    "step_folder": checkpoint.find(start).name,
    "weights": digest(start),
    "compute_type": str(found.model_spec.keywords.get("dtype", "float32")),
  }


def same_weights(workdir: Path, now: Row) -> None:
  """Refuses to resume in a folder that was started with weights other than those that `now` describes.

  Args:
    workdir: the folder of the study.
    now: the result of `about`.

  Raises:
    InputError: the weights differ.
  """
  before = remember(workdir / "checkpoint.json", lambda: now, replace=False)
  if before != now:
    found = config_lib.first_few(config_lib.differences(before, now))
    raise InputError(
      f"{workdir} was started with other weights: {found}. Restore them, or give another --workdir"
    )


def check_start(start: str, expected: str | None, data: Data, runtime: Runtime, *, at: str) -> None:
  """Refuses a checkpoint that is missing or not the expected one, and images of other classes or targets.

  Only a classification needs classes. Those of other tasks are compared if both sides have them.

  Args:
    start: the checkpoint.
    expected: its digest; None accepts any.
    data: the images, which `at` names in messages.
    runtime: opens them.
    at: the field of the study that holds the data.

  Raises:
    InputError, CheckpointError, DataError: the message says what is wrong.
  """
  weights = loaded(start)
  spec = task_of(weights, trust=runtime.trust)
  task = spec.realize(num_classes=len(weights.classes))
  classifies = task.loss is not None
  if classifies and not weights.classes:
    raise InputError(f"{weights.path} has no classifier; transfer it, or train one")
  if expected not in (None, digest(start)):
    raise InputError(f"the digest of {start} is {digest(start)}; the config expects {expected}")
  source = runtime.open(data)
  if classifies or (weights.classes and source.classes):
    same_classes(weights.classes, source.classes, at=at)
  check_source_targets(source, task, spec.path)
  if not classifies:
    own = filled(start, data, trust=runtime.trust)
    check_target_shapes(next(iter(runtime.eval_batches(own))), task, name=source.name)


def check_finite(params: Params, batch_stats: Params) -> None:
  """Raises InputError with the name of the first parameter or statistic that is not finite, if any."""
  for kind, arrays in (("parameter", params), ("statistic", batch_stats)):
    if path := tree.first_nonfinite(arrays):
      raise InputError(f"the {kind} {path!r} is not finite; nothing can be measured at such a checkpoint")


def data_config(
  start: str,
  name: str,
  *,
  split: str | None,
  data_dir: str | None,
  columns: Mapping[str, str],
  preprocessing: Mapping[str, Any],
  batch_size: int,
  max_bad_records: int,
  trust: bool,
) -> dict[str, Any]:
  """Returns the config of images for a checkpoint, preprocessed as the checkpoint expects.

  Args:
    start: the checkpoint.
    name, split, data_dir: the data, as the user names them.
    columns: keywords of `data.from_name` that name columns of Parquet files.
    preprocessing: fields of `data.Preprocessing` that differ from the checkpoint's own.
    batch_size, max_bad_records: settings of the images.
    trust: imports names of the checkpoint's config outside jaxtl and optax.
  """
  plan = prepare(loaded(start), preprocessing, trust=trust)
  chosen = data_lib.choose_split(data_lib.open_source(name, data_dir=data_dir, **columns), split)
  return dict(
    source=dict(make=".data.from_name", name=name, split=chosen, **columns),
    transforms=config_lib.plain(list(plan.transforms)),
    batch_size=batch_size,
    max_bad_records=max_bad_records,
  )
