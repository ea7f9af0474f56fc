"""Transfer: what a pre-trained weight is worth on other data sets, by linear probe and by fine-tuning."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxtl import losses, optim
from jaxtl.checkpoints import checkpoint
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import Spec
from jaxtl.data.class_names import same_classes
from jaxtl.errors import ConfigError
from jaxtl.host.processes import is_first_process
from jaxtl.host.progress import title
from jaxtl.host.remember import remember
from jaxtl.measure.linear_probe import LinearProbe
from jaxtl.metrics import in_top
from jaxtl.studies.transfer import preprocessing
from jaxtl.studies.transfer.settings import FineTune, Protocols, Target, Transfer
from jaxtl.train import experiment, sharding
from jaxtl.train.evaluate import collect_features, make_features
from jaxtl.train.experiment import (
  ANY_LENGTH,
  PLAIN,
  SOME_CLASSES,
  Experiment,
  frozen,
  make_model,
  steps_in,
  total_steps,
  work_per_image,
)
from jaxtl.train.image_size import at_size, fitted, image_size_of
from jaxtl.train.inputs import Data
from jaxtl.train.runtime import Runtime
from jaxtl.train.training import run
from jaxtl.types import Row

# Metrics records of a fine-tuning in each epoch, over which its curve takes the mean.
RECORDS = 10


def rows(study: Transfer, *, seed: int, workdir: Path, runtime: Runtime) -> Iterator[Row]:
  """One row per target and protocol."""
  start = checkpoint.load(study.start)
  model = start.model_spec(trust=runtime.trust)
  folder = workdir / "transfer"
  yield from measure(study.transfer, model, start, seed=seed, workdir=folder, runtime=runtime)


def measure(
  protocols: Protocols, model: Spec, start: Weights, *, seed: int, workdir: Path, runtime: Runtime
) -> Iterator[Row]:
  """The rows of `start` on every target; finished ones are read back from `workdir`.

  In `workdir/<target>/`: each protocol's row, and the fine-tuning as `fine_tune/`, which is a run's folder:
  checkpoints, `metrics.jsonl`, `curve.csv`, `classes.json`. Targets that leave transforms out get the
  checkpoint's; one note names those that normalise otherwise.
  """
  _note_normalization(protocols, start, runtime)
  protocols = _filled(protocols, start, runtime)
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
      passes = _fine_tuning_work(fine_tune, target, model, runtime)
      runtime.progress.title = f"{title(workdir)} | fine-tune {name}"
      yield remember(
        folder / "fine_tune.json",
        functools.partial(_fine_tune_row, here, fine_tune, folder / "fine_tune"),
        recalled=functools.partial(runtime.progress.skip, passes),
        note=runtime.progress.note,
      )
      if fine_tune.keep == 0 and is_first_process():
        shutil.rmtree(folder / "fine_tune" / checkpoint.FOLDER, ignore_errors=True)


def _filled(protocols: Protocols, start: Weights, runtime: Runtime) -> Protocols:
  """The protocols with transforms for every target."""
  targets = {
    name: Target(
      *preprocessing.filled(target.train, target.test, start, at=f"targets.{name}", trust=runtime.trust)
    )
    for name, target in protocols.targets.items()
  }
  return dataclasses.replace(protocols, targets=targets)


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


def rehearse(study: Transfer, runtime: Runtime) -> None:
  """Makes the fine-tuning's parts; traces them too where the checkpoint is there to say of which model."""
  rehearse_protocols(*_known(study, runtime), runtime)


def check_data(study: Transfer, runtime: Runtime) -> None:
  """Refuses targets whose training and test sets have different class lists."""
  check_targets(*_known(study, runtime), runtime)


def rehearse_protocols(protocols: Protocols, model: Spec | None, runtime: Runtime) -> None:
  """Makes every target's fine-tuning, and traces it where its transforms tell the images' size."""
  for target in protocols.targets.values():
    for spec in (*target.train.transforms, *target.train.batch_transforms, *target.test.transforms):
      spec.realize()
    if protocols.fine_tune is not None:
      _rehearse(protocols.fine_tune, target, model, runtime, image_size_of(target.train))


def check_targets(protocols: Protocols, model: Spec | None, runtime: Runtime) -> None:
  """See `check_data`; traces the fine-tuning where only the images tell their size."""
  for name, target in protocols.targets.items():
    classes = runtime.open(target.train).classes
    same_classes(classes, runtime.open(target.test).classes, at=f"targets.{name}.test")
    if protocols.fine_tune is not None and model is not None:
      _check_schedule(protocols.fine_tune, name, target, model, runtime)
    # Without transforms of its own a target has those of a checkpoint that is not there yet.
    if protocols.fine_tune is not None and target.train.transforms and image_size_of(target.train) is None:
      _rehearse(protocols.fine_tune, target, model, runtime, runtime.image_shape(target.train)[0])


def _check_schedule(fine_tune: FineTune, name: str, target: Target, model: Spec, runtime: Runtime) -> None:
  tuned = fine_tuning(fine_tune, target, model, len(runtime.open(target.train)))
  try:
    experiment.check_schedule(tuned, runtime)
  except ConfigError as error:
    raise ConfigError(f"{name}: {error}") from error


def _rehearse(
  fine_tune: FineTune, target: Target, model: Spec | None, runtime: Runtime, image_size: int | None
) -> None:
  sized = model and at_size(model, image_size) if image_size else model
  tuned = fine_tuning(fine_tune, target, sized or PLAIN, None)
  if model is not None:
    facts: dict[str, Any] = dict(num_classes=SOME_CLASSES, num_examples=None, image_size=image_size)
    program, state = experiment.rehearse(tuned, mesh=runtime.mesh, **facts)
    if fine_tune.head == "probe" and state is not None:
      _check_linear(model, sorted(state.params[program.model.head]))
    return
  context: dict[str, Any] = dict(total_steps=ANY_LENGTH, steps_per_epoch=1, blocks=(), mesh=None)
  tuned.task.realize(num_classes=SOME_CLASSES)
  tuned.optimizer.realize(**context)
  tuned.gradient.realize(**context)


def _check_linear(model: Spec, head: list[str]) -> None:
  if head != ["bias", "kernel"]:
    raise ConfigError(
      f"fine_tune.head is 'probe', which needs a linear head, and that of {model.path} has "
      f"{' and '.join(head)}; write head='fresh', or give the model a linear head"
    )


def _known(study: Transfer, runtime: Runtime) -> tuple[Protocols, Spec | None]:
  """The protocols, filled in, and the checkpoint's model; as given, and None, without a checkpoint."""
  if not Path(study.start).exists():
    return study.transfer, None
  start = checkpoint.load(study.start)
  return _filled(study.transfer, start, runtime), start.model_spec(trust=runtime.trust)


def extent(study: Transfer, runtime: Runtime) -> Any:
  """The network, the images of every target, and its fine-tuning: an `Extent`."""
  from jaxtl.studies.transfer import plan  # which imports this module

  return plan.of_study(study, runtime)


def work(study: Transfer, runtime: Runtime) -> float:
  """Image passes of one cell, for the time left."""
  return work_of(study.transfer, runtime)


def work_of(protocols: Protocols, runtime: Runtime) -> float:
  """Image passes that `measure` takes."""
  if protocols.fine_tune is None:
    return 0.0
  targets = protocols.targets.values()
  return sum(_fine_tuning_work(protocols.fine_tune, target, PLAIN, runtime) for target in targets)


def _fine_tuning_work(fine_tune: FineTune, target: Target, model: Spec, runtime: Runtime) -> float:
  size = len(runtime.open(target.train))
  tuned = fine_tuning(fine_tune, target, model, size)
  return total_steps(tuned, size) * target.train.batch_size * work_per_image(tuned)


class _ProbeFit(NamedTuple):
  """A fitted probe, the number of its training images, and the seconds that it took."""

  choice: optim.PenaltyChoice
  num_train: int
  seconds: float


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class _OnTarget:
  """One checkpoint on one target; fits the probe when it is first asked for, and keeps it."""

  name: str
  target: Target
  model: Spec
  start: Weights
  probe: LinearProbe
  seed: int
  runtime: Runtime

  @functools.cached_property
  def fit(self) -> _ProbeFit:
    """The probe of the training images, which it sees as it sees the test images."""
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
  """The training images as the test images are seen."""
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
    anew=True,
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


def fine_tuning(fine_tune: FineTune, target: Target, model: Spec, num_examples: int | None) -> Experiment:
  """The experiment that fine-tunes `model` on a target.

  Args:
    num_examples: of the training set; None if it is not known, for an experiment that is only traced.
  """
  every = fine_tune.evaluate_every_epochs
  return Experiment(
    model=model,
    task=frozen(fine_tune.task),
    data=target.train,
    optimizer=fine_tune.optimizer,
    gradient=fine_tune.gradient,
    epochs=fine_tune.epochs,
    steps=fine_tune.steps,
    evaluation={"test": target.test},
    evaluate_every=steps_in(every, target.train, num_examples) if every and num_examples else None,
    log_every=steps_in(1 / RECORDS, target.train, num_examples) if num_examples else 1,
    checkpoint_every=fine_tune.checkpoint_every,
    keep=max(fine_tune.keep, 1),
  )
