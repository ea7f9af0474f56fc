"""An experiment: data, model, task, optimiser and gradient rule, and the program that they compile to."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from jaxtl import config as config_lib
from jaxtl import data as data_lib
from jaxtl import optim, tree
from jaxtl.config import Spec
from jaxtl.data.class_names import same_classes
from jaxtl.errors import ConfigError, DataError
from jaxtl.tasks import Task
from jaxtl.train import compiled, feed, selection, sharding
from jaxtl.train.inputs import Data, check_transforms
from jaxtl.train.runtime import Runtime
from jaxtl.train.selection import Select
from jaxtl.train.step import Step, init_model, init_state, make_train_step, skip_nonfinite
from jaxtl.types import GradientRule, Model, TrainState

# Stands for the number of classes in a rehearsal, which opens no data.
SOME_CLASSES = 10

# Fields for when and where things happen: a run may be resumed with other values, and learns the same.
PERIODS = ("log_every", "evaluate_every", "checkpoint_every", "keep")
CIRCUMSTANCES = (*PERIODS, "sharding")
NONFINITE = ("abort", "skip", "roll_back")
REPLICATE = Spec(".train.replicate", "make", {}, sharding.replicate)
PLAIN = Spec(".optim.plain", "make", {}, optim.plain)
_GIVEN = {data_lib.MIXED_LABELS: "mixed labels", data_lib.VIEWS: "views of each image"}
_REMEDY = {
  data_lib.MIXED_LABELS: "leave it out",
  data_lib.VIEWS: "write .data.aug_mix, or give the task consistency=12.0",
}
# Updates of a run whose length is unknown or does not matter: any schedule fits into it.
ANY_LENGTH = 10**9


@dataclasses.dataclass(frozen=True)
class Experiment:
  """One training run.

  Attributes:
    model: makes a `Model`; receives num_classes.
    task: makes a `Task`.
    data: what to train on.
    optimizer: makes an `optax.GradientTransformation`; receives total_steps and steps_per_epoch.
    epochs: passes over the training data; 0 leaves the start unchanged. None if `steps` gives the length.
    gradient: makes a gradient rule.
    evaluation: data sets to evaluate on, by name.
    start: a checkpoint to start from, if the study does not give one.
    log_every, evaluate_every, checkpoint_every: periods in steps; None means only at the end.
    keep: number of checkpoints to keep; with 2, the default, there is a fallback if the newest is corrupted.
    on_nonfinite: if loss or gradient is NaN or infinite, "abort" stops with exit code 4, "skip" continues as
      if the batch did not exist, and "roll_back" resumes from the last checkpoint and skips those data.
    sharding: makes a placement of the state's arrays on the devices: `.train.fsdp`, `.train.by_path`.
    spike_factor: a loss above this many times the median of the last hundred counts as not finite, but cannot
      be skipped; None disables this.
    steps: updates in the whole run, in place of `epochs`.
    select: uses the weights of the best evaluation; None uses the last ones.
  """

  model: Spec
  task: Spec
  data: Data
  optimizer: Spec
  epochs: float | None = None
  gradient: Spec = PLAIN
  evaluation: Mapping[str, Data] = dataclasses.field(default_factory=dict)
  start: str | None = None
  log_every: int = 20
  evaluate_every: int | None = None
  checkpoint_every: int | None = None
  keep: int = 2
  on_nonfinite: str = "abort"
  spike_factor: float | None = None
  sharding: Spec = REPLICATE
  steps: int | None = None
  select: Select | None = None

  def __post_init__(self) -> None:
    periods = {name: getattr(self, name) for name in PERIODS}
    check_length(self.epochs, self.steps)
    selection.check(self.select, self.evaluation)
    config_lib.require(
      on_nonfinite=(self.on_nonfinite, self.on_nonfinite in NONFINITE, f"one of {', '.join(NONFINITE)}"),
      spike_factor=(
        self.spike_factor,
        self.spike_factor is None or self.spike_factor > 1,
        "above 1, or None",
      ),
      **{name: (value, value is None or value >= 1, "at least 1") for name, value in periods.items()},
    )


def check_length(epochs: float | None, steps: int | None) -> None:
  """Raises ConfigError unless exactly one of the two gives the length of the training."""
  if (epochs is None) == (steps is None):
    raise ConfigError(f"epochs is {epochs} and steps is {steps}; give one of them, and leave the other None")
  config_lib.require(
    epochs=(epochs, epochs is None or epochs >= 0, "0 or more"),
    steps=(steps, steps is None or steps >= 0, "0 or more"),
  )


@dataclasses.dataclass(frozen=True)
class Program:
  """The compiled parts of an experiment; runs that differ in seed, data or start share them."""

  model: Model
  task: Task
  tx: optax.GradientTransformation
  gradient: GradientRule
  placement: sharding.Placement
  train_step: Step
  measure: Callable[..., Any]


def total_steps(experiment: Experiment, num_examples: int) -> int:
  """Returns the number of updates in the whole run; at least one if there is anything to train."""
  if experiment.steps is not None:
    return experiment.steps
  return steps_in(experiment.epochs or 0.0, experiment.data, num_examples)


def steps_in(epochs: float, data: Data, num_examples: int) -> int:
  """Returns the number of updates in `epochs` passes over `num_examples` examples, in batches of `data`."""
  return optim.steps_of(epochs, steps_per_epoch=num_examples / data.batch_size)


_programs: compiled.ArmCache[Program] = compiled.ArmCache()
_models: compiled.ArmCache[Model] = compiled.ArmCache()


def compile_program(
  experiment: Experiment, *, num_classes: int, num_examples: int | None, mesh: Any
) -> Program:
  """Jits the experiment's functions; equal arguments return the same object, so nothing compiles twice.

  The functions are cached while consecutive arms use them (`jaxtl.train.compiled`).

  Args:
    num_examples: of the training data; None if not known yet, for a program that is only traced.

  Raises:
    ConfigError: a component refuses its keywords, or the warm-up is longer than the run.
  """
  steps, steps_per_epoch = _lengths(experiment, num_examples)
  parts = (
    *(experiment.model, experiment.task, experiment.optimizer, experiment.gradient),
    *(experiment.on_nonfinite == "skip", experiment.sharding),
  )
  devices = [device.id for device in mesh.devices.flat]
  name = json.dumps([config_lib.plain(parts), num_classes, steps, steps_per_epoch, devices], sort_keys=True)
  return _programs.get(name, lambda: _compile(experiment, num_classes, steps, steps_per_epoch, mesh))


def _lengths(experiment: Experiment, num_examples: int | None) -> tuple[int, float]:
  """Returns the number of updates of the run and of one epoch, as the schedules see them."""
  if num_examples is None:
    return experiment.steps or ANY_LENGTH, 1.0
  # A run without updates never asks its schedule for a rate: its warm-up may have any length.
  steps = total_steps(experiment, num_examples) or ANY_LENGTH
  return steps, num_examples / experiment.data.batch_size


def check_schedule(experiment: Experiment, runtime: Runtime) -> None:
  """Opens the data, and refuses a schedule that does not fit the length of the run.

  Raises:
    ConfigError: the warm-up is longer than the run.
  """
  source = runtime.open(experiment.data)
  compile_program(experiment, num_classes=len(source.classes), num_examples=len(source), mesh=runtime.mesh)


def make_model(spec: Spec, *, num_classes: int) -> Model:
  """Makes the model of a spec; equal arguments return the same object, so its functions compile once."""
  name = json.dumps([config_lib.plain(spec), num_classes], sort_keys=True)
  return _models.get(name, lambda: spec.realize(num_classes=num_classes))


def _compile(
  experiment: Experiment, num_classes: int, steps: int, steps_per_epoch: float, mesh: Any
) -> Program:
  model = make_model(experiment.model, num_classes=num_classes)
  task = experiment.task.realize(num_classes=num_classes)
  context = {
    "total_steps": steps,
    "steps_per_epoch": steps_per_epoch,
    "blocks": model.blocks,
    "mesh": mesh,
  }
  tx = experiment.optimizer.realize(**context)
  gradient = experiment.gradient.realize(**context)
  if part := optim.trained_paths(gradient, model):
    # Parameters that the rule does not move have no optimiser state, and no decay that would move them.
    tx = optim.where(pattern=part, transform=tx)
  placement = experiment.sharding.realize()
  step = make_train_step(task.loss_fn(model), tx, gradient=gradient)
  if experiment.on_nonfinite == "skip":
    step = skip_nonfinite(step)
  train_step = jax.jit(sharding.hold(step, placement, mesh), donate_argnums=0)
  measure = jax.jit(task.measure(model), out_shardings=sharding.replicated(mesh))
  return Program(model, task, tx, gradient, placement, train_step, measure)


def rehearse(
  experiment: Experiment, *, num_classes: int, num_examples: int | None, image_size: int | None, mesh: Any
) -> tuple[Program, TrainState | None]:
  """Makes all that a run makes and traces its first step, which shows mistakes without computing anything.

  Returns:
    The program, and the shapes of its first state, or None if `image_size` is None.

  Raises:
    ConfigError: a component refuses its keywords, the model, or the parameters that it is to work on.
  """
  for data in (experiment.data, *experiment.evaluation.values()):
    check_transforms(data)
  program = compile_program(experiment, num_classes=num_classes, num_examples=num_examples, mesh=mesh)
  check_given(experiment, program.task)
  if image_size is None:
    return program, None
  return program, _traced(program, experiment.data.batch_size, image_size)


@compiled.kept
def _traced(program: Program, batch_size: int, image_size: int) -> TrainState:
  shape = (image_size, image_size, 3)
  state = jax.eval_shape(
    lambda: init_state(
      *init_model(program.model, jax.random.key(0), shape), program.tx, gradient=program.gradient
    )
  )
  batch = feed.shapes(program.gradient, program.task.inputs(image_size), batch_size=batch_size)
  after, _ = jax.eval_shape(program.train_step, state, batch, jax.random.key(0))
  if tree.paths(after) != tree.paths(state):
    raise ConfigError("the step changes the structure of its state; a gradient rule or transform is at fault")
  return state


def check_classes(experiment: Experiment, classes: tuple[str, ...], runtime: Runtime) -> None:
  """Refuses an evaluation set with a class list other than the training set's; shows the first difference."""
  for name, evaluation in experiment.evaluation.items():
    same_classes(classes, runtime.open(evaluation).classes, at=f"evaluation.{name}")


def check_targets(experiment: Experiment, task: Task, runtime: Runtime) -> None:
  """Refuses data that lack a target that the task reads, and transforms that do not go with the task.

  Raises:
    ConfigError: as in `check_given`.
    DataError: as in `check_source_targets`.
  """
  check_given(experiment, task)
  for data in (experiment.data, *experiment.evaluation.values()):
    check_source_targets(runtime.open(data), task, experiment.task.path)


def check_target_shapes(batch: Mapping[str, Any], task: Task, *, name: str) -> None:
  """Refuses a batch of the source `name` whose targets have other shapes than the task reads.

  Raises:
    DataError: names the data, the target and both shapes.
  """
  for key, (shape, _) in task.inputs(batch["image"].shape[1]).items():
    if key != "image" and key in batch and batch[key].shape[1:] != tuple(shape):
      found = list(batch[key].shape[1:])
      raise DataError(f"{name} gives {key!r} of shape {found} for each image; the task reads {list(shape)}")


def check_source_targets(source: Any, task: Task, path: str) -> None:
  """Refuses a source that lacks a target that the task, made by `path`, reads.

  Raises:
    DataError: names the data and the target.
  """
  needed = set(task.inputs(1)) - {"image", data_lib.VIEWS}
  if missing := sorted(needed - set(source.target_specs)):
    there = ", ".join(source.target_specs) or "nothing"
    absent = getattr(source, "dropped", {}).get(missing[0])
    raise DataError(
      f"{source.name} has no {missing[0]!r} for its images; the task {path} reads it, and the data have "
      f"{there}{f'; {absent}' if absent else ''}"
    )


def check_given(experiment: Experiment, task: Task) -> None:
  """Refuses training transforms that give what the task does not use, or not the views that it needs.

  Raises:
    ConfigError: names the transform and the task.
  """
  data, needs = experiment.data, set(task.inputs(1)) & {data_lib.VIEWS}
  total = check_transforms(data)
  for spec in (*data.transforms, *data.batch_transforms):
    for given in sorted(data_lib.gives(spec.realize()) - set(task.reads)):
      raise ConfigError(
        f"{spec.path} gives {_GIVEN[given]}, which the task {experiment.task.path} does not use; "
        f"{_REMEDY[given]}"
      )
  if needs - total:
    raise ConfigError(
      f"the task {experiment.task.path} compares views of an image, and the transforms make none; add "
      ".data.aug_mix_jsd before .data.normalize, or write consistency=0.0"
    )


def work_per_image(experiment: Experiment) -> float:
  """Returns the forward-backward passes that one image costs under the experiment's gradient rule."""
  return work_of(experiment.gradient)


def image_passes(experiment: Experiment, num_examples: int) -> float:
  """Forward-backward passes over single images in the whole run, for the time left."""
  return total_steps(experiment, num_examples) * experiment.data.batch_size * work_per_image(experiment)


def work_of(gradient: Spec) -> float:
  """Returns the forward-backward passes that one image costs under a gradient rule."""
  return optim.passes(gradient.realize(total_steps=1, steps_per_epoch=1, blocks=(), mesh=None))


def frozen(task: Spec) -> Spec:
  """Returns the task with frozen normalisation statistics, if it has this option and leaves it open."""
  if "frozen_stats" not in inspect.signature(task.target).parameters:
    return task
  return dataclasses.replace(task, keywords={"frozen_stats": True, **task.keywords})


def with_rate(optimizer: Spec, rate: float) -> Spec:
  """Returns the optimiser with another peak rate; that of its inner `transform` if it has none itself.

  Raises:
    ConfigError: neither has one.
  """
  if "peak_rate" in inspect.signature(optimizer.target).parameters:
    return dataclasses.replace(optimizer, keywords={**optimizer.keywords, "peak_rate": rate})
  inner = optimizer.keywords.get("transform")
  if not isinstance(inner, Spec):
    raise ConfigError(
      f"a choice of rates sets 'peak_rate', which {optimizer.path} does not have; use .optim.sgd, "
      ".optim.adam or .optim.adamw"
    )
  return dataclasses.replace(optimizer, keywords={**optimizer.keywords, "transform": with_rate(inner, rate)})
