"""A patching study at work: its backbone and tasks, and the weights that were fine-tuned from it."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxtl import optim, tree
from jaxtl.checkpoints import checkpoint
from jaxtl.config import Spec
from jaxtl.errors import ConfigError
from jaxtl.host import progress
from jaxtl.studies.patching.backbone import Backbone
from jaxtl.studies.patching.path import WeightPath
from jaxtl.studies.patching.settings import Patching
from jaxtl.studies.patching.tasks import Scores, Tasks
from jaxtl.train.experiment import Experiment, frozen
from jaxtl.train.runtime import Runtime
from jaxtl.train.training import run
from jaxtl.types import Params
from jaxtl.weights import PaintObjective


@dataclasses.dataclass(eq=False)
class FineTunedTasks:
  """A study's backbone and tasks, and the weights that were fine-tuned from it."""

  study: Patching
  tasks: Tasks
  runtime: Runtime
  seed: int
  workdir: Path
  _path: tuple[str, WeightPath] | None = None
  _models: dict[str, Params] = dataclasses.field(default_factory=dict)
  _not_needed: dict[str, float] = dataclasses.field(default_factory=dict)

  @classmethod
  def of(cls, study: Patching, runtime: Runtime, *, side: int, seed: int, workdir: Path) -> FineTunedTasks:
    start = checkpoint.load(study.start)
    backbone = Backbone.of(start, side=side, trust=runtime.trust)
    tasks = Tasks(study.tasks, backbone, runtime, head=study.head, seed=seed)
    return cls(study, tasks, runtime, seed, workdir)

  @property
  def before(self) -> Params:
    """The backbone as it was."""
    backbone = self.tasks.backbone
    return {"params": backbone.params, "batch_stats": backbone.batch_stats}

  @property
  def title(self) -> str:
    """For the status line."""
    return progress.title(self.workdir)

  def fine_tuned(self, patch: str, *, start: Params | None = None, name: str = "") -> Params:
    """The weights after fine-tuning on a patching task, from the backbone or from `start`; kept on disk."""
    name = name or patch
    if name not in self._models:
      # It was taken off the total, and is taken off again where it is found on the disk.
      self.runtime.progress.expect(self._not_needed.pop(name, 0.0))
      whose = self.tasks.head(patch), self.tasks.classes(patch)
      self._models[name] = self.trained(self.experiment(patch), *whose, start=start, name=name)
    return self._models[name]

  def pass_over(self, patch: str, work: float) -> None:
    """Takes the work of a fine-tuning off the total, if nothing has asked for it."""
    if patch not in self._models:
      self._not_needed[patch] = work
      self.runtime.progress.skip(work)

  def trained(
    self,
    experiment: Experiment,
    head: Params,
    classes: Sequence[str],
    *,
    start: Params | None = None,
    name: str,
  ) -> Params:
    """What an experiment makes of a backbone with a head: {"params", "batch_stats"}, trained "heads"."""
    backbone = self.tasks.backbone
    model = backbone.weights(**(start or self.before), head=head, classes=classes)
    folder = self.workdir / "fine_tune" / name
    # A short training, of one pair of many: one that has rotted away is worth less than all the others.
    found = run(
      experiment, seed=self.seed, runtime=self.runtime, workdir=folder, start=model, restart_if_damaged=True
    ).weights
    body = {key: part for key, part in found.params.items() if key != backbone.head}
    both = {"params": body, "batch_stats": found.batch_stats}
    return {**both, "heads": {name: found.params[backbone.head]}} if self.study.train_head else both

  def experiment(self, patch: str) -> Experiment:
    """The fine-tuning on a patching task."""
    backbone = self.tasks.backbone
    return fine_tuning(self.study, patch, backbone.spec, backbone.head)

  def is_trained(self, patch: str) -> Params:
    """True at the backbone's leaves that neither optimiser nor gradient rule of a fine-tuning freeze."""
    tuned, backbone = self.experiment(patch), self.tasks.backbone
    model = backbone.model(len(self.tasks.classes(patch)))
    rule = tuned.gradient.realize(total_steps=1, steps_per_epoch=1, blocks=model.blocks, mesh=None)
    moved = tree.matches(backbone.params, optim.trained_paths(rule, model), needed=False)
    if not (freeze := tuned.optimizer.keywords.get("freeze")):
      return moved
    frozen = tree.matches(backbone.params, freeze, needed=False)
    return jax.tree.map(lambda may, stays: may and not stays, moved, frozen)

  def specialist(self, patch: str) -> Scores:
    """What the fine-tuned weights score on their own task's test images."""
    return self.path(patch).scores(1.0, [patch], "test")[patch]

  def path(self, patch: str) -> WeightPath:
    """The line from the backbone to its fine-tuned self; that of the last task is kept."""
    if self._path is None or self._path[0] != patch:
      after = self.fine_tuned(patch)
      before = {**self.before, **({"heads": {patch: self.tasks.head(patch)}} if "heads" in after else {})}
      self._path = patch, self.line(before, after, patch)
    return self._path[1]

  def line(self, before: Params, after: Params, *patches: str) -> WeightPath:
    """The line between any two sets of weights, with statistics from the images of the patching tasks."""
    return WeightPath(
      self.tasks, before, after, statistics=self.statistics(*patches), bounds=self.study.bounds
    )

  def statistics(self, *patches: str) -> Any:
    """Returns the estimate of statistics from images of the patching tasks and of all supported ones."""
    count = self.study.statistics_batches
    names = [*patches, *(name for name, task in self.study.supported.items() if task.train is not None)]
    return functools.partial(self.tasks.statistics, names, count) if count else None

  def objective(self, path: WeightPath, supported: list[str], patching: list[str]) -> PaintObjective:
    names = [*supported, *patching]
    return PaintObjective(
      path.losses(names),
      supported=supported,
      patching=patching,
      normalise=self.study.normalise,  # type: ignore[arg-type]  # checked by the study
      num_classes={name: len(self.tasks.classes(name)) for name in names},
    )

  def forget(self) -> None:
    """Lets go of the weights of the last path."""
    self._path = None


def fine_tuning(study: Patching, patch: str, model: Spec, head: str) -> Experiment:
  """The fine-tuning on a patching task: nothing is evaluated, nothing of the head moves."""
  task = study.patching[patch]
  assert task.train is not None  # the study has checked it
  how = study.fine_tune
  return Experiment(
    model=model,
    task=frozen(how.task),
    data=task.train,
    optimizer=how.optimizer if study.train_head else without(how.optimizer, head),
    gradient=how.gradient,
    epochs=how.epochs,
    steps=how.steps,
    checkpoint_every=how.checkpoint_every,
    keep=max(how.keep, 1),  # the pairs begin and end at these weights
  )


def without(optimizer: Spec, head: str) -> Spec:
  """The optimiser that leaves the head as it is, decay and all."""
  if "freeze" not in inspect.signature(optimizer.target).parameters:
    raise ConfigError(
      f"fine_tune.optimizer is {optimizer.path}, which cannot freeze the head; use .optim.sgd, adam or "
      "adamw, or train_head=True"
    )
  frozen = rf"^{head}/"
  if own := optimizer.keywords.get("freeze"):
    frozen = f"{frozen}|{own}"
  return dataclasses.replace(optimizer, keywords={**optimizer.keywords, "freeze": frozen})
