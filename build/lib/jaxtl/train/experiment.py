"""An experiment: data, model, task, optimiser and gradient rule, trained from a start to an end.

Where a run starts, in this order: 1. its own newest checkpoint; 2. the weights it is given, matched by path,
the head replaced where the class lists differ; 3. fresh.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from jaxtl import config as config_lib
from jaxtl import data as data_lib
from jaxtl import optim, weights
from jaxtl.config import Spec
from jaxtl.errors import DataError
from jaxtl.tasks import Task
from jaxtl.train import checkpoint, sharding
from jaxtl.train.checkpoint import Checkpointer, Weights
from jaxtl.train.evaluate import evaluate
from jaxtl.train.loop import Observer, fit
from jaxtl.train.step import Step, TrainState, init_model, init_state, make_train_step
from jaxtl.train.writer import MetricsWriter, Progress
from jaxtl.types import GradientRule, Model

PLAIN = Spec(".optim.plain", "make", {}, optim.plain)


@dataclasses.dataclass(frozen=True)
class Data:
  """A source with its transforms.

  Attributes:
    source: makes a source of examples.
    transforms: functions (example[, seed]) -> example, in order.
    batch_transforms: functions (batch, seed) -> batch: mixup, cutmix.
    batch_size: the global batch, over all devices and processes.
    max_bad_records: unreadable images that are skipped, each named once, before the run stops.
    num_examples, num_classes: what the source is expected to hold. A source that differs is refused; `jaxtl
      check` needs no data where they are given.
  """

  source: Spec
  transforms: tuple[Spec, ...] = ()
  batch_transforms: tuple[Spec, ...] = ()
  batch_size: int = 128
  max_bad_records: int = 0
  num_examples: int | None = None
  num_classes: int | None = None


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


@dataclasses.dataclass
class Runtime:
  """Where a run takes place; nothing here changes what is learned.

  Attributes:
    mesh: the devices.
    data_dir: the folder below which sources look for their files.
    progress: the status line.
    sources, bad_records, shapes: what is known of data that were opened already.
  """

  mesh: Any
  data_dir: str | None = None
  progress: Progress = dataclasses.field(default_factory=Progress)
  sources: dict[str, Any] = dataclasses.field(default_factory=dict)
  bad_records: dict[str, Any] = dataclasses.field(default_factory=dict)
  shapes: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

  def open(self, data: Data) -> Any:
    """The source of `data`, opened once per run."""
    name = json.dumps(config_lib.plain(data.source), sort_keys=True)
    if name not in self.sources:
      self.sources[name] = data.source.realize(data_dir=self.data_dir)
    source = self.sources[name]
    for what, found, expected in (
      ("examples", len(source), data.num_examples),
      ("classes", len(source.classes), data.num_classes),
    ):
      if expected is not None and found != expected:
        raise DataError(f"{source.name} holds {found} {what}; the config says num_{what} = {expected}")
    return source

  def _bad(self, data: Data) -> Any:
    """The budget of unreadable images of a source, one for all that read it."""
    name = json.dumps(config_lib.plain(data.source), sort_keys=True)
    if name not in self.bad_records:
      self.bad_records[name] = data_lib.BadRecords(data.max_bad_records, self.progress.note)
    return self.bad_records[name]

  def train_batches(self, data: Data, *, seed: int, start_step: int) -> Iterator[Mapping[str, np.ndarray]]:
    """The endless stream of training batches, from any step on."""
    return data_lib.train_batches(
      self.open(data),
      [spec.realize() for spec in data.transforms],
      batch_size=data.batch_size,
      seed=seed,
      start_step=start_step,
      batch_transforms=[spec.realize() for spec in data.batch_transforms],
      shard=(jax.process_index(), jax.process_count()),
      bad_records=self._bad(data),
    )

  def image_shape(self, data: Data) -> tuple[int, ...]:
    """(H, W, 3) of the images that a model sees, found by making one batch of them, once."""
    name = json.dumps(config_lib.plain(data), sort_keys=True)
    if name not in self.shapes:
      batch = next(iter(self.train_batches(data, seed=0, start_step=0)))
      self.shapes[name] = tuple(batch["image"].shape[1:])
    return self.shapes[name]

  def eval_batches(self, data: Data) -> Any:
    """Exactly one pass, padded to fixed shapes."""
    return data_lib.eval_batches(
      self.open(data),
      [spec.realize() for spec in data.transforms],
      batch_size=data.batch_size,
      shard=(jax.process_index(), jax.process_count()),
      bad_records=self._bad(data),
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


def compile_program(
  experiment: Experiment, *, num_classes: int, steps: int, steps_per_epoch: int, mesh: Any
) -> Program:
  """The experiment's functions, jitted; the same object for the same arguments: nothing compiles twice."""
  parts = (experiment.model, experiment.task, experiment.optimizer, experiment.gradient)
  name = json.dumps([config_lib.plain(parts), num_classes, steps, steps_per_epoch, mesh.size], sort_keys=True)
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


def run(
  experiment: Experiment,
  *,
  seed: int,
  runtime: Runtime,
  workdir: Path | None = None,
  start: Weights | None = None,
  observers: Mapping[str, tuple[int | None, Callable[[Program], Observer]]] | None = None,
) -> Trained:
  """Trains an experiment, or goes on where an earlier run of it was stopped.

  Args:
    seed: of the initialisation, the order of the data and all noise.
    workdir: for checkpoints, metrics and the class list; None keeps all in memory.
    start: weights to start from; they win over `experiment.start`.
    observers: name -> (period, program -> observer), beside the evaluations.
  """
  mesh, data = runtime.mesh, experiment.data
  sharding.check_batch_size(data.batch_size, mesh, at="data.batch_size")
  for name, evaluation in experiment.evaluation.items():
    sharding.check_batch_size(evaluation.batch_size, mesh, at=f"evaluation.{name}.batch_size")
  source = runtime.open(data)
  steps = total_steps(experiment, len(source))
  steps_per_epoch = max(len(source) // data.batch_size, 1)
  program = compile_program(
    experiment, num_classes=len(source.classes), steps=steps, steps_per_epoch=steps_per_epoch, mesh=mesh
  )
  if start is None and experiment.start is not None:
    start = checkpoint.load(experiment.start)
  check_classes(experiment, source.classes, runtime)

  image_shape = runtime.image_shape(data)
  init_key, noise_key = jax.random.split(jax.random.key(seed))
  fresh = start_state(program, init_key, image_shape, start=start, classes=source.classes)
  state = sharding.put_replicated(fresh, mesh)
  about = _about(experiment, source.classes, image_shape, seed)

  saved = Checkpointer(workdir / checkpoint.FOLDER, keep=experiment.keep) if workdir else None
  if saved and saved.latest_step() is not None:
    state = saved.restore(state)
  begin = int(state.step)
  work = work_per_image(experiment)
  runtime.progress.skip(begin * data.batch_size * work)
  writer = MetricsWriter(workdir, start_step=begin)
  watching = {
    name: (experiment.evaluate_every, _evaluation(program, name, evaluation, runtime))
    for name, evaluation in experiment.evaluation.items()
  }
  for name, (every, make) in (observers or {}).items():
    watching[name] = (every, make(program))
  if begin < steps:
    state = fit(
      state,
      program.train_step,
      runtime.train_batches(data, seed=seed, start_step=begin),
      num_steps=steps,
      key=noise_key,
      mesh=mesh,
      writer=writer,
      progress=runtime.progress,
      work_per_image=work,
      log_every=experiment.log_every,
      observers=watching,
      save=functools.partial(saved.save, config=about) if saved else None,
      checkpoint_every=experiment.checkpoint_every,
    )
  elif not any(record["step"] >= steps for record in writer.records):
    for _, observe in watching.values():
      writer.write(begin, observe(state))
    if saved:
      saved.save(state, about)
  writer.close()
  if saved:
    saved.close()
  final = Weights(
    params=jax.device_get(optim.averaged(state.opt_state, state.params)),
    batch_stats=jax.device_get(state.batch_stats),
    config={**about, "step": steps},
    path=str(workdir) if workdir else "memory",
  )
  return Trained(program, final, writer.records, steps)


def start_state(
  program: Program,
  key: jax.Array,
  image_shape: tuple[int, ...],
  *,
  start: Weights | None,
  classes: tuple[str, ...],
) -> TrainState:
  """The state before the first step: fresh, or `start` matched by path.

  The head stays fresh where the class lists differ. Raises CheckpointError where anything else does not fit.
  """
  params, batch_stats = init_model(program.model, key, image_shape)
  if start is not None:
    allow = () if tuple(start.classes) == tuple(classes) else (rf"^{program.model.head}/",)
    params = weights.match(start.params, params, allow=allow)
    batch_stats = weights.match(start.batch_stats, batch_stats)
  return init_state(params, batch_stats, program.tx, gradient=program.gradient)


def check_classes(experiment: Experiment, classes: tuple[str, ...], runtime: Runtime) -> None:
  """Refuses an evaluation set whose class list is not the training set's, showing the first difference."""
  for name, evaluation in experiment.evaluation.items():
    same_classes(classes, runtime.open(evaluation).classes, at=f"evaluation.{name}")


def same_classes(expected: tuple[str, ...], found: tuple[str, ...], *, at: str) -> None:
  """Raises DataError where the lists differ, naming the first difference."""
  if tuple(expected) == tuple(found):
    return
  if len(expected) != len(found):
    raise DataError(f"{at} has {len(found)} classes; the model was trained on {len(expected)}")
  number, (a, b) = next((i, p) for i, p in enumerate(zip(expected, found)) if p[0] != p[1])
  raise DataError(f"{at}: class {number} is {b!r}, and the model was trained with {a!r} there")


def work_per_image(experiment: Experiment) -> float:
  """Forward-backward passes that one image costs under the experiment's gradient rule."""
  return 2.0 if "sam" in experiment.gradient.path.rpartition(".")[2] else 1.0


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
  evaluations = list(experiment.evaluation.values())
  transforms = evaluations[0].transforms if evaluations else experiment.data.transforms
  return config_lib.plain(
    {
      "model": experiment.model,
      "task": experiment.task,
      "classes": list(classes),
      "image_shape": list(image_shape),
      "transforms": list(transforms),
      "experiment": experiment,
      "seed": seed,
    }
  )
