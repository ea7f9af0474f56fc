"""The network of a checkpoint, fitted to the images that a study measures it on."""

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
from jaxtl.measure.prepared import prepare
from jaxtl.tasks.classify import PerExampleLoss
from jaxtl.train.image_size import fitted
from jaxtl.train.inputs import Data
from jaxtl.train.runtime import Runtime
from jaxtl.types import Model, Params, Row


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
  """A checkpoint that fits its images."""

  model: Model
  params: Params
  batch_stats: Params
  loss: PerExampleLoss
  model_spec: Spec
  task: Spec


def prepared(start: str, data: Data, runtime: Runtime) -> tuple[Data, Network]:
  """The images with the transforms that count, and the network of a checkpoint for their size.

  Where the data have no transforms, they are the checkpoint's own.
  """
  if not data.transforms:
    own = prepare(loaded(start), {}, trust=runtime.trust).transforms
    data = dataclasses.replace(data, transforms=own)
  return data, network(start, runtime.image_shape(data)[0], trust=runtime.trust)


def network(start: str, size: int, *, trust: bool) -> Network:
  """The network of a checkpoint for square images of `size` pixels."""
  return _network(start, digest(start), size, trust)


@functools.lru_cache(maxsize=4)  # so that losses and seeds share what is compiled for a network
def _network(start: str, digest: str, size: int, trust: bool) -> Network:
  del digest  # other weights at the same place are another network
  weights = loaded(start)
  trusted = None if trust else config_lib.TRUSTED
  task = config_lib.spec(weights.config["task"], at="the checkpoint's task", trusted=trusted)
  spec = weights.model_spec(trust=trust)
  model, params = fitted(spec, weights, size)
  loss = task.realize(num_classes=len(weights.classes)).loss
  return Network(model, params, weights.batch_stats, loss, spec, task)


def loaded(start: str) -> checkpoint.Weights:
  """The checkpoint, read once."""
  return _load(start, digest(start))


@functools.lru_cache(maxsize=2)
def _load(start: str, digest: str) -> checkpoint.Weights:
  del digest
  return checkpoint.load(start)


def digest(start: str) -> str:
  """16 hexadecimal digits of the manifest of a checkpoint, which holds the digest of every array."""
  return manifest.read(checkpoint.find(start)).digest[:16]


def about(start: str, found: Network) -> Row:
  """Which weights they are, and what they compute in."""
  return {
    "checkpoint": start,
    "step_folder": checkpoint.find(start).name,
    "weights": digest(start),
    "compute_type": str(found.model_spec.keywords.get("dtype", "float32")),
  }


def same_weights(workdir: Path, now: Row) -> None:
  """Refuses to go on in a folder that was begun with other weights than those that `about` tells of.

  Raises:
    InputError: they are others.
  """
  before = remember(workdir / "checkpoint.json", lambda: now, replace=False)
  if before != now:
    found = config_lib.first_few(config_lib.differences(before, now))
    raise InputError(
      f"{workdir} was started with other weights: {found}. Restore them, or give another --workdir"
    )


def check_start(start: str, expected: str | None, data: Data, runtime: Runtime, *, at: str) -> None:
  """Refuses a checkpoint that is not there or not the one that is meant, and images of other classes.

  Args:
    start: the checkpoint.
    expected: its digest; None: any.
    data: the images, which `at` names in messages.
    runtime: opens them.
    at: the field of the study that holds the data.

  Raises:
    InputError, CheckpointError, DataError: as it says.
  """
  weights = loaded(start)
  if not weights.classes:
    raise InputError(f"{weights.path} has no classifier; transfer it, or train one")
  if expected not in (None, digest(start)):
    raise InputError(f"the digest of {start} is {digest(start)}; the config expects {expected}")
  same_classes(weights.classes, runtime.open(data).classes, at=at)


def check_finite(params: Params, batch_stats: Params) -> None:
  """Raises InputError, which names the first, where a parameter or a statistic is not finite."""
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
  """The config of images for a checkpoint, prepared as it wants them.

  Args:
    start: the checkpoint.
    name, split, data_dir: the data, as a user names them.
    columns: keywords of `data.from_name` that name columns of Parquet files.
    preprocessing: fields of `data.Preprocessing` that differ from the checkpoint's own.
    batch_size, max_bad_records: of the images.
    trust: imports what the checkpoint's config names outside jaxtl and optax.
  """
  plan = prepare(loaded(start), preprocessing, trust=trust)
  chosen = data_lib.choose_split(data_lib.open_source(name, data_dir=data_dir, **columns), split)
  return dict(
    source=dict(make=".data.from_name", name=name, split=chosen, **columns),
    transforms=config_lib.plain(list(plan.transforms)),
    batch_size=batch_size,
    max_bad_records=max_bad_records,
  )
