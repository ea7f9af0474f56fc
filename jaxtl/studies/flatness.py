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
from jaxtl import losses
from jaxtl.config import Spec
from jaxtl.studies import scene
from jaxtl.studies.evaluation import plan_of
from jaxtl.studies.lambda_max import Flatness
from jaxtl.studies.scene import Layers, Plane, Scene, Sharpness, Slice, Spectrum
from jaxtl.studies.sentences import call
from jaxtl.tasks.classify import PerExampleLoss
from jaxtl.train import checkpoint
from jaxtl.train.processes import remember
from jaxtl.train.runtime import Data, Runtime, same_classes
from jaxtl.train.sizes import fitted

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
  """

  start: str
  flatness: Flatness
  spectrum: Spectrum | None = dataclasses.field(default_factory=Spectrum)
  layers: Layers | None = dataclasses.field(default_factory=Layers)
  sharpness: Sharpness | None = dataclasses.field(default_factory=Sharpness)
  slice: Slice | None = dataclasses.field(default_factory=Slice)
  plane: Plane | None = dataclasses.field(default_factory=Plane)


def rows(study: FlatnessOf, *, seed: int, workdir: Path, runtime: Runtime) -> Iterator[Row]:
  """Rows of the kinds flatness (one for each loss), layer, slice and plane; `seed` draws another subset."""
  flatness = dataclasses.replace(study.flatness, seed=study.flatness.seed + seed)
  trained = _loaded(study.start)
  plan = plan_of(trained, {}, trust=runtime.trust)
  own = plan.task.realize(num_classes=len(trained.classes)).loss
  images = _data(study, plan.transforms)
  model, params = fitted(plan.model, trained, runtime.image_shape(images)[0])
  measured = {CROSS_ENTROPY: losses.softmax_cross_entropy}
  if config_lib.plain(plan.task).get("loss") != {"fn": ".losses.softmax_cross_entropy"}:
    measured[TRAINING] = own
  for name, loss in measured.items():
    runtime.progress.title = f"{'/'.join(workdir.parts[-2:])} | {name.replace('_', '-')}"
    parts = _parts(study, flatness, name)

    def compute(loss: PerExampleLoss = loss, parts: Mapping[str, Any] = parts) -> list[Row]:
      subset = dict(num_examples=flatness.num_examples, seed=flatness.seed)
      return _measured(Scene.of(model, params, trained.batch_stats, loss, images, runtime, **subset), parts)

    found = remember(workdir / f"{name}.json", compute)
    for row in found:
      yield {**row, "loss": name, "differentiated": _loss_name(name, plan.task), "checkpoint": study.start}


def config_of(
  start: str,
  name: str,
  *,
  split: str | None,
  preprocessing: Mapping[str, Any],
  batch_size: int,
  num_examples: int,
  max_bad_records: int,
  trust: bool,
) -> dict[str, Any]:
  """The config of a study of one checkpoint, as `jaxtl run` would read it.

  Args:
    start: the checkpoint.
    name, split: the data, as a user names them.
    preprocessing: fields of `data.Preprocessing` that differ from the checkpoint's own.
    batch_size, num_examples, max_bad_records: of the images.
    trust: imports what the checkpoint's config names outside jaxtl and optax.
  """
  plan = plan_of(_loaded(start), preprocessing, trust=trust)
  data = dict(
    source=dict(make=".data.from_name", name=name, split=split),
    transforms=config_lib.plain(list(plan.transforms)),
    batch_size=batch_size,
    max_bad_records=max_bad_records,
  )
  return dict(
    study=".studies.flatness.rows",
    title=f"Flatness of {start}",
    base=dict(start=start, flatness=dict(data=data, num_examples=num_examples)),
    arms=dict(checkpoint={}),
    seeds=[0],
  )


def _measured(at: Scene, parts: Mapping[str, Any]) -> list[Row]:
  flatness = parts["flatness"]
  row: Row = {"kind": "flatness", **at.facts()}
  extremes = at.extremes(num_iters=flatness.num_iters, tolerance=flatness.tolerance)
  row |= scene.extreme_numbers(extremes)
  if parts["spectrum"] is not None:
    row |= at.spectrum(parts["spectrum"])
  if parts["sharpness"] is not None:
    row |= at.sharpness(parts["sharpness"])
  found = [row]
  if parts["layers"] is not None:
    found += [{"kind": "layer", **layer} for layer in at.layers(parts["layers"])]
  if parts["slice"] is not None:
    found += [{"kind": "slice", **line} for line in at.slices(parts["slice"], extremes.algebraic.vector)]
  if parts["plane"] is not None:
    found.append({"kind": "plane", **at.plane(parts["plane"])})
  return found


def _parts(study: FlatnessOf, flatness: Flatness, loss: str) -> dict[str, Any]:
  """What is measured for a loss: blocks and planes, which cost most, for the cross-entropy only."""
  found = {name: getattr(study, name) for name in ("spectrum", "layers", "sharpness", "slice", "plane")}
  return {"flatness": flatness} | found | ({} if loss == CROSS_ENTROPY else {"layers": None, "plane": None})


def check_data(study: FlatnessOf, runtime: Runtime) -> None:
  """Refuses a checkpoint that is not there, or images of other classes."""
  trained = _loaded(study.start)
  same_classes(trained.classes, runtime.open(study.flatness.data).classes, at="flatness.data")
  plan = plan_of(trained, {}, trust=runtime.trust)
  fitted(plan.model, trained, runtime.image_shape(_data(study, plan.transforms))[0])
  if study.slice is not None and study.slice.towards is not None:
    _loaded(study.slice.towards)


@functools.lru_cache(maxsize=2)
def _loaded(path: str) -> checkpoint.Weights:
  return checkpoint.load(path)


def _data(study: FlatnessOf, own: tuple[Spec, ...]) -> Data:
  data = study.flatness.data
  return data if data.transforms else dataclasses.replace(data, transforms=own)


def _loss_name(name: str, task: Spec) -> str:
  """The loss that was differentiated, as a short call."""
  if name == CROSS_ENTROPY:
    return "softmax_cross_entropy"
  return call(config_lib.plain(task).get("loss"))
