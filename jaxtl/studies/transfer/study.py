"""Transfers pre-trained weights to other data sets, by linear probe and by fine-tuning."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxtl import losses, optim
from jaxtl.checkpoints import checkpoint
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import Spec
from jaxtl.host.processes import is_first_process
from jaxtl.host.progress import title
from jaxtl.host.remember import remember
from jaxtl.measure.linear_probe import LinearProbe
from jaxtl.metrics import in_top
from jaxtl.studies.transfer import preprocessing
from jaxtl.studies.transfer.fine_tuning import filled_protocols, fine_tuning
from jaxtl.studies.transfer.plan import plan
from jaxtl.studies.transfer.settings import FineTune, Protocols, Target, Transfer
from jaxtl.train import sharding
from jaxtl.train.evaluate import collect_features, make_features
from jaxtl.train.experiment import (
  image_passes,
  make_model,
)
from jaxtl.train.image_size import at_size, fitted
from jaxtl.train.inputs import Data
from jaxtl.train.runtime import Runtime
from jaxtl.train.training import run
from jaxtl.types import Row

# The runner looks up `plan` next to `rows`; other studies use `measure`.
__all__ = ["measure", "plan", "rows"]


def rows(study: Transfer, *, seed: int, workdir: Path, runtime: Runtime) -> Iterator[Row]:
  """Yields one row per target and protocol."""
  start = checkpoint.load(study.start)
  model = start.model_spec(trust=runtime.trust)
  folder = workdir / "transfer"
  yield from measure(study.transfer, model, start, seed=seed, workdir=folder, runtime=runtime)


def measure(
  protocols: Protocols, model: Spec, start: Weights, *, seed: int, workdir: Path, runtime: Runtime
) -> Iterator[Row]:
  """Yields the rows of `start` on every target; finished ones are read back from `workdir`.

  The folder `workdir/<target>/` contains the row of each protocol, and the run of the fine-tuning in
  `fine_tune/`, with checkpoints, `metrics.jsonl`, `curve.csv` and `classes.json`. Targets without transforms
  use those of the checkpoint. One note names the targets that normalise differently.
  """
  _note_normalization(protocols, start, runtime)
  protocols = filled_protocols(protocols, start, runtime)
  for name, target in protocols.targets.items():
    folder = workdir / name
    here = _OnTarget(
      name=name,
      target=target,
      model=model,
      start=start,
      probe=protocols.linear_probe or LinearProbe(),
      seed=seed,
      runtime=runtime,
    )
    if protocols.linear_probe is not None:
      runtime.progress.title = f"{title(workdir)} | probe {name}"
      yield remember(
        folder / "linear_probe.json", functools.partial(_probe_row, here), note=runtime.progress.note
      )
    if protocols.fine_tune is not None:
      fine_tune = protocols.fine_tune
      num_train = len(runtime.open(target.train))
      passes = image_passes(fine_tuning(fine_tune, target, model, num_train), num_train)
      runtime.progress.title = f"{title(workdir)} | fine-tune {name}"
      yield remember(
        folder / "fine_tune.json",
        functools.partial(_fine_tune_row, here, fine_tune, folder / "fine_tune"),
        recalled=functools.partial(runtime.progress.skip, passes),
        note=runtime.progress.note,
      )
      if fine_tune.keep == 0 and is_first_process():
        shutil.rmtree(folder / "fine_tune" / checkpoint.FOLDER, ignore_errors=True)


def _note_normalization(protocols: Protocols, start: Weights, runtime: Runtime) -> None:
  others = [
    name
    for name, target in protocols.targets.items()
    if any(preprocessing.differs(data, start) for data in (target.train, target.test))
  ]
  if others:
    runtime.progress.note(
      f"{', '.join(others)}: normalised differently from the images of {start.path}, which had the mean "
      f"{preprocessing.normalization_text(start)}; leave out the transforms to take the checkpoint's"
    )


class _ProbeFit(NamedTuple):
  """A fitted probe, the number of its training images, and the seconds that it took."""

  choice: optim.PenaltyChoice
  num_train: int
  seconds: float


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class _OnTarget:
  """One checkpoint on one target, with a probe that is fitted on first use and cached."""

  name: str
  target: Target
  model: Spec
  start: Weights
  probe: LinearProbe
  seed: int
  runtime: Runtime

  @functools.cached_property
  def fit(self) -> _ProbeFit:
    """The probe that is fitted to the training images, preprocessed like the test images."""
    began = time.monotonic()
    features, labels = self.features(_unaugmented(self.target))
    choice = self.probe.choose(
      features, labels, num_classes=len(self.classes), seed=self.seed, beat=self.runtime.beat
    )
    return _ProbeFit(choice, len(labels), time.monotonic() - began)

  @property
  def classes(self) -> tuple[str, ...]:
    """The target's class names."""
    classes: tuple[str, ...] = self.runtime.open(self.target.train).classes
    return classes

  def features(self, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Returns pooled features [N, D] of the checkpoint and labels [N], at the size of the test images."""
    mesh, size = self.runtime.mesh, self.runtime.image_shape(self.target.test)[0]
    _, fitting = fitted(self.model, self.start, size)
    features = make_features(make_model(at_size(self.model, size), num_classes=len(self.start.classes)))
    params, batch_stats = (sharding.put_replicated(x, mesh) for x in (fitting, self.start.batch_stats))
    return collect_features(features, params, batch_stats, self.runtime.eval_batches(data), mesh=mesh)

  def start_at_probe(self) -> Weights:
    """Returns the checkpoint with the probe as its head, and the target's classes."""
    head = make_model(self.model, num_classes=len(self.classes)).head
    return dataclasses.replace(
      self.start,
      params={**self.start.params, head: self.fit.choice.probe.head()},
      config={**self.start.config, "classes": list(self.classes)},
    )


def _probe_row(here: _OnTarget) -> Row:
  (probe, l2, chosen_by), num_train, seconds = here.fit
  began = time.monotonic()
  features, labels = here.features(here.target.test)
  here.runtime.beat()
  logits = probe.logits(jnp.asarray(features))
  accuracy = float(jnp.mean(in_top(logits, jnp.asarray(labels))))
  return {
    "kind": "transfer",
    "target": here.name,
    "protocol": "linear_probe",
    "accuracy": accuracy,
    "loss": float(jnp.mean(losses.softmax_cross_entropy(logits, jnp.asarray(labels)))),
    "l2": l2,
    "l2_chosen_by": chosen_by,
    "num_iters": int(probe.num_iters),
    "converged": bool(probe.converged),
    "num_train": num_train,
    "num_test": len(labels),
    "num_classes": len(here.classes),
    "classes": list(here.classes),
    "seconds": seconds + time.monotonic() - began,
  }


def _unaugmented(target: Target) -> Data:
  """Returns the training images with the transforms of the test images."""
  return dataclasses.replace(target.train, transforms=target.test.transforms)


def _fine_tune_row(here: _OnTarget, fine_tune: FineTune, workdir: Path) -> Row:
  target, runtime = here.target, here.runtime
  size, num_train = runtime.image_shape(target.train)[0], len(runtime.open(target.train))
  tuned = fine_tuning(fine_tune, target, at_size(here.model, size), num_train)
  fresh = fine_tune.head == "fresh"
  start = here.start if fresh else here.start_at_probe()
  began = time.monotonic()  # The probe's row has the seconds of its fit.
  trained = run(
    tuned,
    seed=here.seed,
    runtime=runtime,
    workdir=workdir,
    start=start,
    fresh_head=fresh,
    restart_if_damaged=True,
  )
  return {
    "kind": "transfer",
    "target": here.name,
    "protocol": "fine_tune",
    "accuracy": trained.last("eval/test/top1"),
    "best_accuracy": trained.best("eval/test/top1"),
    "num_evaluations": sum("eval/test/top1" in record for record in trained.history),
    "loss": trained.last("eval/test/cross_entropy"),
    "least_loss": trained.least("eval/test/cross_entropy"),
    "train_loss": trained.last("train/loss"),
    "head": fine_tune.head,
    "num_train": num_train,
    "num_test": len(runtime.open(target.test)),
    "num_classes": len(trained.weights.classes),
    "classes": list(trained.weights.classes),
    "steps": trained.total_steps,
    "seconds": time.monotonic() - began,
  }
