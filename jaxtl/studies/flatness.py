"""Flatness of checkpoints: the spectrum of the Hessian, sharpness, and the loss around the weights.

Curvatures of different losses cannot be compared, so all is measured for the cross-entropy, and the
spectrum and the sharpness also for the loss that a checkpoint was trained with. Images are a fixed subset,
without augmentation; normalisation uses the stored statistics.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxtl import config as config_lib
from jaxtl import data as data_lib
from jaxtl import losses, tree
from jaxtl import weights as weights_lib
from jaxtl.config import Spec
from jaxtl.errors import InputError
from jaxtl.studies.evaluation import plan_of
from jaxtl.studies.flatness_plans import Layers, Plane, Sharpness, Slice, Spectrum
from jaxtl.studies.lambda_max import Flatness
from jaxtl.studies.scene import Scene, extreme_numbers
from jaxtl.studies.sentences import call
from jaxtl.tasks.classify import PerExampleLoss
from jaxtl.train import checkpoint, manifest
from jaxtl.train.processes import remember
from jaxtl.train.runtime import Data, Runtime, same_classes
from jaxtl.train.sizes import fitted
from jaxtl.types import Model, Params

Row = dict[str, Any]

CROSS_ENTROPY = "cross_entropy"
TRAINING = "training"


@dataclasses.dataclass(frozen=True)
class FlatnessOf:
  """The study: one checkpoint per arm. Each part may be left out by None.

  Attributes:
    start: the checkpoint, a run's folder or an imported weight.
    flatness: the images, and how exactly lambda_max is measured. Where its data have no transforms, they are
      the checkpoint's own.
    spectrum: the largest eigenvalues, the trace and the density.
    layers: the curvature of each block alone.
    sharpness: how much the loss rises nearby.
    slice: the loss along lines.
    plane: the cross-entropy over a plane.
    digest: what the weights must be, as `weights` of a row says; None: any.
  """

  start: str
  flatness: Flatness
  spectrum: Spectrum | None = dataclasses.field(default_factory=Spectrum)
  layers: Layers | None = dataclasses.field(default_factory=Layers)
  sharpness: Sharpness | None = dataclasses.field(default_factory=Sharpness)
  slice: Slice | None = dataclasses.field(default_factory=Slice)
  plane: Plane | None = dataclasses.field(default_factory=Plane)
  digest: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class _Network:
  """A checkpoint that fits its images."""

  model: Model
  params: Params
  batch_stats: Params
  loss: PerExampleLoss
  model_spec: Spec
  task: Spec


def rows(study: FlatnessOf, *, seed: int, workdir: Path, runtime: Runtime) -> Iterator[Row]:
  """Rows of the kinds flatness (one for each loss), layer, slice and plane; `seed` draws another subset."""
  images, network, other = _prepared(study, runtime)
  about = _about(study, network)
  before = remember(workdir / "checkpoint.json", lambda: about)
  if before != about:
    found = config_lib.first_few(config_lib.differences(before, about))
    raise InputError(
      f"{workdir} was begun with other weights: {found}. Bring them back, or begin anew elsewhere"
    )
  flatness = dataclasses.replace(study.flatness, seed=study.flatness.seed + seed)
  losses_of: dict[str, PerExampleLoss] = {CROSS_ENTROPY: losses.softmax_cross_entropy}
  if config_lib.plain(network.task).get("loss") != {"fn": ".losses.softmax_cross_entropy"}:
    losses_of[TRAINING] = network.loss
  for name, loss in losses_of.items():
    runtime.progress.title = f"{'/'.join(workdir.parts[-2:])} | {name.replace('_', '-')}"

    def compute(name: str = name, loss: PerExampleLoss = loss) -> list[Row]:
      subset = dict(num_examples=flatness.num_examples, seed=flatness.seed)
      at = Scene.of(network.model, network.params, network.batch_stats, loss, images, runtime, **subset)
      return _measured(at, flatness, study, name, other)

    for row in remember(workdir / f"{name}.json", compute):
      yield {**row, "loss": name, "differentiated": _loss_name(name, network.task), **about}


def config_of(
  start: str,
  name: str,
  *,
  split: str | None,
  data_dir: str | None,
  preprocessing: Mapping[str, Any],
  batch_size: int,
  num_examples: int,
  max_bad_records: int,
  trust: bool,
) -> dict[str, Any]:
  """The config of a study of one checkpoint, as `jaxtl run` would read it.

  Args:
    start: the checkpoint; the config holds the digest of its weights, so that others are another study.
    name, split, data_dir: the data, as a user names them.
    preprocessing: fields of `data.Preprocessing` that differ from the checkpoint's own.
    batch_size, num_examples, max_bad_records: of the images.
    trust: imports what the checkpoint's config names outside jaxtl and optax.
  """
  plan = plan_of(_loaded(start), preprocessing, trust=trust)
  chosen = data_lib.choose_split(data_lib.open_source(name, data_dir=data_dir), split)
  data = dict(
    source=dict(make=".data.from_name", name=name, split=chosen),
    transforms=config_lib.plain(list(plan.transforms)),
    batch_size=batch_size,
    max_bad_records=max_bad_records,
  )
  return dict(
    study=".studies.flatness.rows",
    title=f"Flatness of {start}",
    base=dict(start=start, digest=_digest(start), flatness=dict(data=data, num_examples=num_examples)),
    arms=dict(checkpoint={}),
    seeds=[0],
  )


def _measured(
  at: Scene, flatness: Flatness, study: FlatnessOf, loss: str, other: tuple[Params, Params] | None
) -> list[Row]:
  """All rows of one loss; blocks and planes, which cost most, for the cross-entropy only."""
  row: Row = {"kind": "flatness", **at.facts()}
  extremes = at.extremes(num_iters=flatness.num_iters, tolerance=flatness.tolerance)
  row |= extreme_numbers(extremes) | {"tolerance": flatness.tolerance}
  if study.spectrum is not None:
    row |= at.spectrum(study.spectrum)
  if study.sharpness is not None:
    row |= at.sharpness(study.sharpness)
  found = [row]
  if study.layers is not None and loss == CROSS_ENTROPY:
    found += [{"kind": "layer", **layer} for layer in at.layers(study.layers)]
  if study.slice is not None:
    lines = at.slices(study.slice, extremes.algebraic.vector, other)
    found += [{"kind": "slice", **line} for line in lines]
  if study.plane is not None and loss == CROSS_ENTROPY:
    found.append({"kind": "plane", **at.plane(study.plane)})
  return found


def check_data(study: FlatnessOf, runtime: Runtime) -> None:
  """Refuses a checkpoint that is not there or not the one that is meant, images of other classes, another
  checkpoint that does not match, and names of parameters that there are none of."""
  weights = _loaded(study.start)
  if not weights.classes:
    raise InputError(f"{weights.path} has no classifier; transfer it, or give it one by training")
  if study.digest not in (None, _digest(study.start)):
    raise InputError(
      f"the weights of {study.start} are {_digest(study.start)}; the config says {study.digest}"
    )
  same_classes(weights.classes, runtime.open(study.flatness.data).classes, at="flatness.data")
  _, network, other = _prepared(study, runtime)
  if study.layers is not None:
    tree.matches(network.params, study.layers.where)
  if other is not None:
    weights_lib.between(network.params, other[0])


def _prepared(study: FlatnessOf, runtime: Runtime) -> tuple[Data, _Network, tuple[Params, Params] | None]:
  """The images with the transforms that count, the network for their size, and the other one's weights."""
  data = study.flatness.data
  if not data.transforms:
    own = plan_of(_loaded(study.start), {}, trust=runtime.trust).transforms
    data = dataclasses.replace(data, transforms=own)
  size = runtime.image_shape(data)[0]
  network = _network(study.start, _digest(study.start), size, runtime.trust)
  if study.slice is None or study.slice.towards is None:
    return data, network, None
  towards = study.slice.towards
  other = _network(towards, _digest(towards), size, runtime.trust)
  return data, network, (other.params, other.batch_stats)


@functools.lru_cache(maxsize=4)  # so that losses and seeds share what is compiled for a network
def _network(start: str, digest: str, size: int, trust: bool) -> _Network:
  del digest  # other weights at the same place are another network
  weights = _loaded(start)
  trusted = None if trust else config_lib.TRUSTED
  task = config_lib.spec(weights.config["task"], at="the checkpoint's task", trusted=trusted)
  spec = weights.model_spec(trust=trust)
  model, params = fitted(spec, weights, size)
  loss = task.realize(num_classes=len(weights.classes)).loss
  return _Network(model, params, weights.batch_stats, loss, spec, task)


def _loaded(start: str) -> checkpoint.Weights:
  return _load(start, _digest(start))


@functools.lru_cache(maxsize=2)
def _load(start: str, digest: str) -> checkpoint.Weights:
  del digest
  return checkpoint.load(start)


def _digest(start: str) -> str:
  """16 hexadecimal digits of the manifest of a checkpoint, which holds the digest of every array."""
  return manifest.read(checkpoint.find(start)).digest[:16]


def _about(study: FlatnessOf, network: _Network) -> Row:
  """Which weights they are, and what they compute in."""
  return {
    "checkpoint": study.start,
    "step_folder": checkpoint.find(study.start).name,
    "weights": _digest(study.start),
    "compute_type": str(network.model_spec.keywords.get("dtype", "float32")),
  }


def _loss_name(name: str, task: Spec) -> str:
  """The loss that was differentiated, as a short call."""
  if name == CROSS_ENTROPY:
    return "softmax_cross_entropy"
  return call(config_lib.plain(task).get("loss"))
