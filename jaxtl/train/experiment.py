"""An experiment: data, model, task, optimiser and gradient rule, trained from a start to an end.

Where a run starts, in this order: 1. its own newest checkpoint; 2. the weights it is given, matched by path,
the head replaced where the class lists differ; 3. fresh.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtl import config as config_lib
from jaxtl import optim, tree, weights
from jaxtl.config import Spec
from jaxtl.errors import CheckpointError, ConfigError
from jaxtl.tasks import Task
from jaxtl.train import checkpoint, sharding
from jaxtl.train.checkpoint import Checkpointer, Weights
from jaxtl.train.evaluate import evaluate
from jaxtl.train.loop import Observer, fit
from jaxtl.train.runtime import Data, Runtime, check_batch_sizes, same_classes
from jaxtl.train.step import Step, TrainState, init_model, init_state, make_train_step
from jaxtl.train.writer import MetricsWriter
from jaxtl.types import GradientRule, Model

# Fields that say when things happen: a run may be resumed with others, and learns the same.
PERIODS = ("log_every", "evaluate_every", "checkpoint_every", "keep")
PLAIN = Spec(".optim.plain", "make", {}, optim.plain)


@dataclasses.dataclass(frozen=True)
class Experiment:
  """One training run.

  Attributes:
    model: makes a `Model`; is offered num_classes.
    task: makes a `Task`.
    data: what to train on.
    optimizer: makes an `optax.GradientTransformation`; is offered total_steps and steps_per_epoch.
    epochs: passes over the training data; 0 leaves the start as it is.
    gradient: makes a gradient rule.
    evaluation: data sets to evaluate on, by name.
    start: a checkpoint to start from, where the study does not give one.
    log_every, evaluate_every, checkpoint_every: periods in steps; None is only at the end.
    keep: how many checkpoints stay.
  """

  model: Spec
  task: Spec
  data: Data
  optimizer: Spec
  epochs: float
  gradient: Spec = PLAIN
  evaluation: Mapping[str, Data] = dataclasses.field(default_factory=dict)
  start: str | None = None
  log_every: int = 20
  evaluate_every: int | None = None
  checkpoint_every: int | None = None
  keep: int = 1

  def __post_init__(self) -> None:
    periods = {name: getattr(self, name) for name in PERIODS}
    config_lib.require(
      epochs=(self.epochs, self.epochs >= 0, "0 or more"),
      **{name: (value, value is None or value >= 1, "at least 1") for name, value in periods.items()},
    )


@dataclasses.dataclass(frozen=True)
class Program:
  """The compiled parts of an experiment; runs that differ in seed, data or start share them."""

  model: Model
  task: Task
  tx: optax.GradientTransformation
  gradient: GradientRule
  train_step: Step
  measure: Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Trained:
  """What an experiment ends with.

  Attributes:
    program: its compiled parts.
    weights: the parameters to use (the moving average where one is kept), statistics and config.
    history: the metrics records, oldest first.
    total_steps: length of the run.
  """

  program: Program
  weights: Weights
  history: list[dict[str, float]]
  total_steps: int

  def last(self, name: str) -> float:
    """The newest value of a metric, NaN where it was never measured."""
    return next((record[name] for record in reversed(self.history) if name in record), float("nan"))

  def best(self, name: str) -> float:
    """The largest value of a metric."""
    return max((record[name] for record in self.history if name in record), default=float("nan"))

  def least(self, name: str) -> float:
    """The smallest value of a metric."""
    return min((record[name] for record in self.history if name in record), default=float("nan"))

  def median(self, name: str) -> float:
    """The median of a metric over the run."""
    values = [record[name] for record in self.history if name in record]
    return float(np.median(values)) if values else float("nan")


def total_steps(experiment: Experiment, num_examples: int) -> int:
  """Updates in the whole run; at least one where there is anything to train."""
  steps = round(experiment.epochs * num_examples / experiment.data.batch_size)
  return max(steps, 1) if experiment.epochs else 0


_programs: dict[str, Program] = {}
_models: dict[str, Model] = {}


def compile_program(experiment: Experiment, *, num_classes: int, num_examples: int, mesh: Any) -> Program:
  """The experiment's functions, jitted; the same object for the same arguments: nothing compiles twice."""
  steps = total_steps(experiment, num_examples)
  steps_per_epoch = max(num_examples // experiment.data.batch_size, 1)
  parts = (experiment.model, experiment.task, experiment.optimizer, experiment.gradient)
  devices = [device.id for device in mesh.devices.flat]
  name = json.dumps([config_lib.plain(parts), num_classes, steps, steps_per_epoch, devices], sort_keys=True)
  if name not in _programs:
    _programs[name] = _compile(experiment, num_classes, steps, steps_per_epoch, mesh)
  return _programs[name]


def make_model(spec: Spec, *, num_classes: int) -> Model:
  """The model of a spec; the same object for the same arguments, so that functions of it compile once."""
  name = json.dumps([config_lib.plain(spec), num_classes], sort_keys=True)
  if name not in _models:
    _models[name] = spec.realize(num_classes=num_classes)
  return _models[name]


def _compile(
  experiment: Experiment, num_classes: int, steps: int, steps_per_epoch: int, mesh: Any
) -> Program:
  model = make_model(experiment.model, num_classes=num_classes)
  task = experiment.task.realize(num_classes=num_classes)
  context = {"total_steps": max(steps, 1), "steps_per_epoch": steps_per_epoch, "blocks": model.blocks}
  tx = experiment.optimizer.realize(**context)
  gradient = experiment.gradient.realize(**context)
  everywhere = sharding.replicated(mesh)
  train_step = jax.jit(
    make_train_step(task.loss_fn(model), tx, gradient=gradient),
    donate_argnums=0,
    out_shardings=everywhere,
  )
  measure = jax.jit(task.measure(model), out_shardings=everywhere)
  return Program(model, task, tx, gradient, train_step, measure)


def rehearse(
  experiment: Experiment, *, num_classes: int, num_examples: int, image_size: int | None, mesh: Any
) -> tuple[Program, TrainState | None]:
  """Makes all that a run makes and traces its first step: mistakes show, and nothing is computed.

  Returns:
    The program, and the shapes of its first state; None where `image_size` is.

  Raises:
    ConfigError: a component refuses its keywords, the model, or the parameters that it is to work on.
  """
  for data in (experiment.data, *experiment.evaluation.values()):
    for spec in (*data.transforms, *data.batch_transforms):
      spec.realize()
  program = compile_program(experiment, num_classes=num_classes, num_examples=num_examples, mesh=mesh)
  if image_size is None:
    return program, None
  return program, _traced(program, experiment.data.batch_size, image_size)


@functools.cache
def _traced(program: Program, batch_size: int, image_size: int) -> TrainState:
  shape = (image_size, image_size, 3)
  state = jax.eval_shape(
    lambda: init_state(
      *init_model(program.model, jax.random.key(0), shape), program.tx, gradient=program.gradient
    )
  )
  batch = {
    "image": jax.ShapeDtypeStruct((batch_size, *shape), jnp.float32),
    "label": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    "mask": jax.ShapeDtypeStruct((batch_size,), jnp.bool_),
  }
  after, _ = jax.eval_shape(program.train_step, state, batch, jax.random.key(0))
  if tree.paths(after) != tree.paths(state):
    raise ConfigError("the step changes the structure of its state; a gradient rule or transform is at fault")
  return state


def run(
  experiment: Experiment,
  *,
  seed: int,
  runtime: Runtime,
  workdir: Path | None = None,
  start: Weights | None = None,
  fresh_head: bool = False,
  observers: Mapping[str, tuple[int | None, Callable[[Program], Observer]]] | None = None,
) -> Trained:
  """Trains an experiment, or goes on where an earlier run of it was stopped.

  Args:
    seed: of the initialisation, the order of the data and all noise.
    workdir: for checkpoints, metrics and the class list; None keeps all in memory.
    start: weights to start from; they win over `experiment.start`.
    fresh_head: draws the head anew also where the class lists are equal: two data sets whose classes are
      called 0 to 9 are not the same task.
    observers: name -> (period, program -> observer), beside the evaluations.
  """
  data = experiment.data
  init_key, noise_key = jax.random.split(jax.random.key(seed))
  program, state, about = _beginning(experiment, init_key, seed, runtime, start, fresh_head)
  steps = total_steps(experiment, len(runtime.open(data)))

  with contextlib.ExitStack() as stack:
    saved = None
    if workdir is not None:
      saved = stack.enter_context(
        contextlib.closing(Checkpointer(workdir / checkpoint.FOLDER, keep=experiment.keep))
      )
      if saved.latest_step() is not None:
        same_run(saved.config(), about, at=workdir)
        state = saved.restore(state)
    writer = stack.enter_context(contextlib.closing(MetricsWriter(workdir, start_step=int(state.step))))
    watching = _evaluations(experiment, program, runtime)
    watching |= {name: (every, make(program)) for name, (every, make) in (observers or {}).items()}
    save = functools.partial(saved.save, config=about) if saved else None
    work = work_per_image(experiment)
    runtime.progress.skip(int(state.step) * data.batch_size * work)
    if int(state.step) < steps:
      state = fit(
        state,
        program.train_step,
        runtime.train_batches(data, seed=seed, start_step=int(state.step)),
        num_steps=steps,
        key=noise_key,
        mesh=runtime.mesh,
        writer=writer,
        progress=runtime.progress,
        work_per_image=work,
        log_every=experiment.log_every,
        observers=watching,
        save=save,
        checkpoint_every=experiment.checkpoint_every,
      )
    elif saved is None or saved.latest_step() is None:  # a run of no epochs: the start is the end
      for _, observe in watching.values():
        writer.write(steps, observe(state))
      if save:
        save(state)
  return _trained(program, state, about, writer.records, steps, workdir)


def _beginning(
  experiment: Experiment,
  key: jax.Array,
  seed: int,
  runtime: Runtime,
  start: Weights | None,
  fresh_head: bool,
) -> tuple[Program, TrainState, dict[str, Any]]:
  """The compiled parts, the state before the first step, and what a checkpoint says of the run."""
  mesh = runtime.mesh
  check_batch_sizes(experiment, mesh)
  source = runtime.open(experiment.data)
  program = compile_program(experiment, num_classes=len(source.classes), num_examples=len(source), mesh=mesh)
  if start is None and experiment.start is not None:
    start = checkpoint.load(experiment.start)
  check_classes(experiment, source.classes, runtime)
  image_shape = runtime.image_shape(experiment.data)
  fresh = start_state(program, key, image_shape, start=start, classes=source.classes, fresh_head=fresh_head)
  return (
    program,
    sharding.put_replicated(fresh, mesh),
    _about(experiment, source.classes, image_shape, seed),
  )


def _trained(
  program: Program,
  state: TrainState,
  about: dict[str, Any],
  history: list[dict[str, float]],
  steps: int,
  workdir: Path | None,
) -> Trained:
  final = Weights(
    params=jax.device_get(optim.averaged(state.opt_state, state.params)),
    batch_stats=jax.device_get(state.batch_stats),
    config={**about, "step": steps},
    path=str(workdir) if workdir else "memory",
  )
  return Trained(program, final, history, steps)


def same_run(saved: dict[str, Any], new: dict[str, Any], *, at: Path) -> None:
  """Refuses to go on from a checkpoint of another experiment, seed or class list, with the difference."""

  def what_matters(about: dict[str, Any]) -> dict[str, Any]:
    # An imported weight has no experiment.
    experiment = {k: value for k, value in (about.get("experiment") or {}).items() if k not in PERIODS}
    return {"experiment": experiment, "seed": about.get("seed"), "classes": about["classes"]}

  found = config_lib.differences(what_matters(saved), what_matters(new))
  if found:
    raise CheckpointError(f"the checkpoint in {at} does not fit this run: {config_lib.first_few(found)}")


def start_state(
  program: Program,
  key: jax.Array,
  image_shape: tuple[int, ...],
  *,
  start: Weights | None,
  classes: tuple[str, ...],
  fresh_head: bool = False,
) -> TrainState:
  """The state before the first step: fresh, or `start` matched by path.

  The head stays fresh where the class lists differ, or with `fresh_head`. Raises CheckpointError where
  anything else does not fit.
  """
  params, batch_stats = init_model(program.model, key, image_shape)
  if start is not None:
    keep = tuple(start.classes) == tuple(classes) and not fresh_head
    allow = () if keep else (rf"^{program.model.head}/",)
    params = weights.match(start.params, params, allow=allow)
    batch_stats = weights.match(start.batch_stats, batch_stats)
  return init_state(params, batch_stats, program.tx, gradient=program.gradient)


def check_classes(experiment: Experiment, classes: tuple[str, ...], runtime: Runtime) -> None:
  """Refuses an evaluation set whose class list is not the training set's, showing the first difference."""
  for name, evaluation in experiment.evaluation.items():
    same_classes(classes, runtime.open(evaluation).classes, at=f"evaluation.{name}")


def work_per_image(experiment: Experiment) -> float:
  """Forward-backward passes that one image costs under the experiment's gradient rule."""
  return optim.passes(experiment.gradient.realize(total_steps=1, steps_per_epoch=1, blocks=()))


def _evaluations(
  experiment: Experiment, program: Program, runtime: Runtime
) -> dict[str, tuple[int | None, Observer]]:
  """The evaluation sets as observers, each with its period."""
  return {
    name: (experiment.evaluate_every, _evaluation(program, name, evaluation, runtime))
    for name, evaluation in experiment.evaluation.items()
  }


def _evaluation(program: Program, name: str, evaluation: Data, runtime: Runtime) -> Observer:
  batches = runtime.eval_batches(evaluation)

  def observe(state: TrainState) -> dict[str, float]:
    params = optim.averaged(state.opt_state, state.params)
    values = evaluate(program.measure, params, state.batch_stats, batches, mesh=runtime.mesh)
    return {f"eval/{name}/{key}": value for key, value in values.items()}

  return observe


def _about(
  experiment: Experiment, classes: tuple[str, ...], image_shape: tuple[int, ...], seed: int
) -> dict[str, Any]:
  """What a checkpoint says of itself: enough to build the model and to preprocess for it."""
  # Training transforms are no preprocessing: they draw at random.
  transforms = next((list(data.transforms) for data in experiment.evaluation.values()), None)
  return config_lib.plain(
    {
      "model": experiment.model,
      "task": experiment.task,
      "classes": list(classes),
      "image_shape": list(image_shape),
      "transforms": transforms,
      "experiment": experiment,
      "seed": seed,
    }
  )
