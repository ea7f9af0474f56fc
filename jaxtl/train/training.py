"""Trains an experiment from its start to its end.

A run starts from the first of these that exists: 1. its own newest checkpoint; 2. the given weights, matched
by path, with a fresh head if the class lists differ; 3. fresh weights.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import config as config_lib
from jaxtl import data as data_lib
from jaxtl import optim, tree, weights
from jaxtl.checkpoints import checkpoint
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.checkpoints.checkpointer import Checkpointer
from jaxtl.errors import CheckpointError, NonFiniteError, StorageError
from jaxtl.host import sealed_json
from jaxtl.host.files import write_atomically
from jaxtl.host.metrics_log import MetricsWriter
from jaxtl.host.processes import from_first, is_first_process, whole
from jaxtl.train import averages as averages_lib
from jaxtl.train import curve, feed, numerics, prefix_cache, sharding
from jaxtl.train.averages import Averages
from jaxtl.train.evaluate import evaluate
from jaxtl.train.experiment import (
  CIRCUMSTANCES,
  Experiment,
  Program,
  check_classes,
  check_targets,
  compile_program,
  total_steps,
  work_per_image,
)
from jaxtl.train.inputs import Data, check_batch_sizes
from jaxtl.train.loop import RECENT, Observer, Periods, fit
from jaxtl.train.prefix_cache import HiddenStateStore, PrefixCache
from jaxtl.train.runtime import Runtime
from jaxtl.train.selection import MOST_COPIES, SELECTED, BestWeights
from jaxtl.train.step import init_model, init_state
from jaxtl.types import Params, TrainState

# How often a run rolls back and skips bad batches before it gives up.
MOST_DETOURS = 3


@dataclasses.dataclass(frozen=True)
class Trained:
  """The result of an experiment.

  Attributes:
    program: its compiled parts.
    weights: the parameters to use (the selected ones, or the moving average if one is kept), their
      statistics, and config.
    history: the metrics records, oldest first.
    total_steps: length of the run.
    cache: where hidden states were cached; None if none were.
  """

  program: Program
  weights: Weights
  history: list[dict[str, float]]
  total_steps: int
  cache: PrefixCache | None = None

  def last(self, name: str) -> float:
    """Returns a metric at the weights to use, or its newest value; NaN if it was never measured."""
    for key in (SELECTED + name, name):
      for record in reversed(self.history):
        if key in record:
          return record[key]
    return float("nan")

  def best(self, name: str) -> float:
    """Returns the largest value of a metric; NaN if it was never measured."""
    return max((record[name] for record in self.history if name in record), default=float("nan"))

  def least(self, name: str) -> float:
    """Returns the smallest value of a metric; NaN if it was never measured."""
    return min((record[name] for record in self.history if name in record), default=float("nan"))

  def median(self, name: str) -> float:
    """Returns the median of a metric over the run; NaN if it was never measured."""
    values = [record[name] for record in self.history if name in record]
    return float(np.median(values)) if values else float("nan")


def run(
  experiment: Experiment,
  *,
  seed: int,
  runtime: Runtime,
  workdir: Path | None = None,
  start: Weights | None = None,
  fresh_head: bool = False,
  cache: PrefixCache | None = None,
  observers: Mapping[str, tuple[int | None, Callable[[Program], Observer]]] | None = None,
  restart_if_damaged: bool = False,
) -> Trained:
  """Trains an experiment, or resumes where an earlier run of it was stopped.

  Args:
    seed: of the initialisation, the order of the data and all noise.
    workdir: for checkpoints, `metrics.jsonl`, `classes.json` and `curve.csv` by epoch; None keeps all in
      memory.
    start: weights to start from; they take precedence over `experiment.start`.
    fresh_head: initialises the head even if the class lists are equal: two data sets whose classes are called
      0 to 9 are not the same task.
    cache: caches the input of the part that the gradient rule moves; None caches nothing.
    observers: name -> (period, program -> observer), in addition to the evaluations.
    restart_if_damaged: starts over, and reports it, if steps were saved and none is intact; False raises
      StorageError then.

  Raises:
    NonFiniteError: the loss or the gradient is not finite, and `experiment.on_nonfinite` does not help.
    StorageError: checkpoints cannot be written, or none is intact.
    Restart: the run was asked to stop, and is saved.
  """
  init_key, noise_key = jax.random.split(jax.random.key(seed))
  program, state, about = _beginning(experiment, init_key, seed, runtime, start, fresh_head)
  runtime.beat()
  num_examples = len(runtime.open(experiment.data))
  steps = total_steps(experiment, num_examples)
  watching = _evaluations(experiment, program, runtime)
  watching |= {name: (every, make(program)) for name, (every, make) in (observers or {}).items()}
  some = averages_lib.batches(experiment.data, runtime, seed=seed)
  averages = Averages(program.model, state, some, mesh=runtime.mesh)
  watching = {name: (every, averages.shown_to(observe)) for name, (every, observe) in watching.items()}
  with contextlib.ExitStack() as stack:
    saved, begun = None, None
    if workdir is not None:
      folder = workdir / checkpoint.FOLDER
      saved = Checkpointer(
        folder, keep=experiment.keep, note=runtime.progress.note, restart_if_damaged=restart_if_damaged
      )
      stack.enter_context(contextlib.closing(saved))
      begun = saved.config() if saved.has_steps() else None
    planned = prefix_cache.plan(cache, program, state, experiment.data, runtime, folder=workdir, begun=begun)
    if planned:
      about["prefix_cache"] = {"views": planned.views, "dtype": planned.dtype}
    if saved is not None and begun is not None:
      same_run(begun, about, at=workdir)
      state = saved.restore(state)
    elif saved is not None and steps:
      saved.check_space(state, copies=0 if experiment.select is None else MOST_COPIES)
    kept = None
    if planned and int(state.step) < steps:
      kept = prefix_cache.keep(planned, program, state, experiment.data, runtime, seed=seed)
    session = _Session(
      experiment, program, runtime, seed, noise_key, steps, watching, saved, about, workdir, kept, averages
    )
    runtime.progress.skip(int(state.step) * session.work_per_step)
    state, history, selected = session.train(state)
  if workdir is not None and is_first_process():
    _describe(workdir, about, history, experiment, num_examples)
  weights = selected or _weights(state, averages.statistics(state), about, int(state.step), workdir)
  return Trained(program, weights, history, steps, planned)


# The last state, all records, and the selected weights.
_Outcome = tuple[TrainState, list[dict[str, float]], Weights | None]


@dataclasses.dataclass(frozen=True)
class _Session:
  """The parts that one call of `run` trains with."""

  experiment: Experiment
  program: Program
  runtime: Runtime
  seed: int
  key: jax.Array
  steps: int
  observers: Mapping[str, tuple[int | None, Observer]]
  saved: Checkpointer | None
  about: dict[str, Any]
  workdir: Path | None
  kept: HiddenStateStore | None
  averages: Averages

  @property
  def work_per_step(self) -> float:
    return self.experiment.data.batch_size * work_per_image(self.experiment)

  def train(self, state: TrainState) -> _Outcome:
    """Trains to the end, with rollbacks if the policy says so.

    Returns:
      The last state, all records, and the selected weights, if the experiment selects any.

    Raises:
      NonFiniteError: the training diverges, and the policy allows no further rollback.
    """
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    detours = Detours(self.workdir)
    while True:
      try:
        return self._attempt(state, detours)
      except NonFiniteError as error:
        if self.experiment.on_nonfinite != "roll_back" or self.saved is None:
          raise
        self.saved.wait()  # for the checkpoint that is being written
        step = self.saved.latest_step()
        if step is None:
          raise NonFiniteError(
            f"{error}; there is no checkpoint to roll back to yet", step=error.step
          ) from error
        if detours.count >= MOST_DETOURS:
          raise NonFiniteError(
            f"{error}; the run has rolled back {MOST_DETOURS} times already", step=error.step
          ) from error
        detours.add(step=step, beyond=error.step or step)
        self.runtime.progress.note(f"{error}; resuming from step {step} and skipping those batches")
        state = self.saved.restore(like)

  def _attempt(self, state: TrainState, detours: Detours) -> _Outcome:
    runtime = self.runtime
    with contextlib.ExitStack() as stack:
      writer = MetricsWriter(self.workdir, start_step=int(state.step), note=runtime.progress.note)
      stack.enter_context(contextlib.closing(writer))
      selection = self._selection(int(state.step), writer)
      if selection is not None:
        stack.enter_context(contextlib.closing(selection))
      state = self._reach_end(state, detours, writer, selection)
      if selection is None:
        return state, writer.records, None
      return state, writer.records, self._measure_selected(selection, int(state.step), writer)

  def _reach_end(
    self, state: TrainState, detours: Detours, writer: MetricsWriter, selection: BestWeights | None
  ) -> TrainState:
    """Trains from `state` to the last step, or to where the selection ends the training."""
    experiment, runtime, start = self.experiment, self.runtime, int(state.step)
    recent = self._recent_losses()
    save = functools.partial(self._save, recent=recent, selection=selection) if self.saved else None
    observers = dict(self.observers)
    if selection is not None and experiment.select is not None:
      every, observe = observers[experiment.select.evaluation]
      observers[experiment.select.evaluation] = every, self._seen_by(selection, observe)
      if start and not selection.has_seen(start):
        self._make_up(state, observers, experiment.select.evaluation, writer)

    def has_ended() -> bool:
      return selection is not None and selection.has_ended

    if start < self.steps and not has_ended():
      state = fit(
        state,
        self.program.train_step,
        self._batches(start + detours.offset(start)),
        num_steps=self.steps,
        key=self.key,
        mesh=runtime.mesh,
        writer=writer,
        progress=runtime.progress,
        work_per_image=work_per_image(experiment),
        periods=Periods(experiment.log_every, experiment.checkpoint_every),
        observers=observers,
        save=save,
        spike_factor=experiment.spike_factor,
        recent=recent,
        stop_due=runtime.stop_due,
        beat=runtime.beat,
        has_ended=has_ended,
      )
    elif not has_ended() and (self.saved is None or self.saved.latest_step() is None):
      # No updates: the start is the end.
      for _, observe in observers.values():
        writer.write(self.steps, observe(state))
      if save:
        save(state, last=True)
    runtime.progress.skip((self.steps - int(state.step)) * self.work_per_step)
    return state

  def _make_up(
    self,
    state: TrainState,
    observers: Mapping[str, tuple[int | None, Observer]],
    deciding: str,
    writer: MetricsWriter,
  ) -> None:
    """Evaluates at the start if the evaluation that decides was due there: it failed, and the run ended."""
    step, names = int(state.step), list(observers)
    due = {
      name for name, (every, _) in observers.items() if step == self.steps or (every and not step % every)
    }
    if deciding not in due:
      return
    for name in names[names.index(deciding) :]:  # those before it had been written
      if name in due:
        writer.write(step, observers[name][1](state))

  def _selection(self, start: int, writer: MetricsWriter) -> BestWeights | None:
    select = self.experiment.select
    if select is None:
      return None
    return BestWeights(select, self.workdir, start, writer.records, self.about, self.runtime.progress.note)

  def _seen_by(self, selection: BestWeights, observe: Observer) -> Observer:
    """Wraps the deciding evaluation, so that the selection sees the evaluated weights and values."""

    def observer(state: TrainState) -> Mapping[str, float]:
      values = observe(state)
      statistics = self.averages.statistics(state)
      selection.observe(dataclasses.replace(state, batch_stats=statistics), values)
      return values

    return observer

  def _measure_selected(self, selection: BestWeights, end: int, writer: MetricsWriter) -> Weights | None:
    """Returns the selected weights; all observers have measured them, and their records are kept."""
    weights = selection.weights()
    measured = any(name.startswith(SELECTED) for one in writer.records for name in one)
    if weights is None or from_first(lambda: measured):
      return weights
    mesh = self.runtime.mesh
    step = jnp.int32(weights.config["step"])
    state = TrainState(step, weights.params, weights.batch_stats, ())
    state = sharding.put(state, self.program.placement, mesh)
    values: dict[str, float] = {"step": int(step)}
    for _, observe in self.observers.values():
      values.update(observe(state))
      self.runtime.beat()
    writer.write(end, {SELECTED + name: float(value) for name, value in values.items()})
    return weights

  def _batches(self, start_step: int) -> Iterator[Mapping[str, Any]]:
    data, rule = self.experiment.data, self.program.gradient
    return feed.batches(data, rule, self.runtime, seed=self.seed, start_step=start_step, kept=self.kept)

  def _recent_losses(self) -> collections.deque[float]:
    """Returns the losses before the resumed step: what is a spike must not depend on interruptions."""
    known = self.saved.config() if self.saved is not None and self.saved.has_steps() else {}
    return collections.deque(known.get("recent_losses", ()), maxlen=RECENT)

  def _save(
    self,
    state: TrainState,
    *,
    last: bool,
    recent: collections.deque[float],
    selection: BestWeights | None,
  ) -> None:
    assert self.saved is not None
    also = {} if self.experiment.spike_factor is None else {"recent_losses": list(recent)}
    # A run that was asked to stop has no time to compile and to read images; its checkpoint is for resuming.
    stopping = last and int(state.step) < self.steps
    statistics = self.averages.known(state) if stopping else self.averages.statistics(state)
    self.saved.save(state, {**self.about, **also}, last=last, statistics=statistics)
    if selection is not None:
      selection.forget(int(state.step))


class Detours:
  """The rollbacks of a run and the data that they skipped, stored so that a resumed run skips them too.

  Args:
    folder: of `detours.json`; None stores nothing.

  Raises:
    StorageError: the file is damaged: without it a resumed run would read other batches.
  """

  def __init__(self, folder: Path | None):
    self._path = None if folder is None else folder / "detours.json"
    self._found: list[dict[str, int]] = []
    if self._path is not None and self._path.exists():
      self._found = _read_detours(self._path)

  @property
  def count(self) -> int:
    return len(self._found)

  def offset(self, step: int) -> int:
    """Returns how many batches beyond its own number the step after `step` reads."""
    return next((one["offset"] for one in reversed(self._found) if one["step"] <= step), 0)

  def add(self, *, step: int, beyond: int) -> None:
    """Records that from `step` on the data continue after the batch that step `beyond` read."""
    self._found.append({"step": step, "offset": beyond + self.offset(beyond - 1) - step})
    if self._path is not None and is_first_process():
      write_atomically(self._path, sealed_json.text(self._found, indent=None))


def _read_detours(path: Path) -> list[dict[str, int]]:
  try:
    found = sealed_json.read(path, list)
    if not all(
      isinstance(one, dict) and {type(one.get(key)) for key in ("step", "offset")} == {int} for one in found
    ):
      raise ValueError("not a list of steps and offsets")
  except ValueError as error:
    raise StorageError(
      f"{path} is damaged ({error}), and lists the batches that the run skips; restore it, or give "
      "another --workdir to start over"
    ) from error
  return found


def _beginning(
  experiment: Experiment,
  key: jax.Array,
  seed: int,
  runtime: Runtime,
  start: Weights | None,
  fresh_head: bool,
) -> tuple[Program, TrainState, dict[str, Any]]:
  """Returns the compiled parts, the state before the first step, and the config for checkpoints."""
  mesh = runtime.mesh
  check_batch_sizes(experiment, mesh)
  source = runtime.open(experiment.data)
  program = compile_program(experiment, num_classes=len(source.classes), num_examples=len(source), mesh=mesh)
  feed.check(program.gradient, experiment.data.batch_size, mesh)
  if start is None and experiment.start is not None:
    start = checkpoint.load(experiment.start)
  check_classes(experiment, source.classes, runtime)
  check_targets(experiment, program.task, runtime)
  image_shape = runtime.image_shape(experiment.data)
  fresh = start_state(program, key, image_shape, start=start, classes=source.classes, fresh_head=fresh_head)
  if start is not None:
    numerics.check(
      experiment.model,
      program.model,
      start,
      fresh.params,
      fresh.batch_stats,
      image_shape=image_shape,
      num_classes=len(source.classes),
      head=tuple(start.classes) == tuple(source.classes) and not fresh_head,
      trust=runtime.trust,
    )
  return (
    program,
    sharding.put(fresh, program.placement, mesh),
    _about(experiment, source.classes, image_shape, seed),
  )


def _describe(
  workdir: Path,
  about: Mapping[str, Any],
  history: list[dict[str, float]],
  experiment: Experiment,
  num_examples: int,
) -> None:
  """Writes the files of a finished run for people and other tools: its classes and its curve."""
  write_atomically(workdir / "classes.json", json.dumps(about["classes"], ensure_ascii=False) + "\n")
  rows = curve.by_epoch(history, steps_per_epoch=num_examples / experiment.data.batch_size)
  write_atomically(workdir / "curve.csv", curve.as_csv(rows))


def _weights(
  state: TrainState, batch_stats: Params, about: dict[str, Any], steps: int, workdir: Path | None
) -> Weights:
  return Weights(
    params=jax.tree.map(whole, optim.averaged(state.opt_state, state.params)),
    batch_stats=jax.tree.map(whole, batch_stats),
    config={**about, "step": steps},
    path=str(workdir) if workdir else "memory",
  )


def same_run(saved: dict[str, Any], new: dict[str, Any], *, at: Path | None) -> None:
  """Refuses to resume from a checkpoint of another experiment, seed, class list or order of the data."""
  if saved.get("order", 1) != new["order"]:
    raise CheckpointError(
      f"the checkpoint in {at} was trained with version {saved.get('order', 1)} of the order of the data, "
      f"and this jaxtl has version {new['order']}; give another --workdir to train from the start"
    )

  def what_matters(about: dict[str, Any]) -> dict[str, Any]:
    # Imported weights have no experiment, and older versions lack some fields, which are then None here.
    fields = about.get("experiment") or {}
    # The evaluations of a run that selects among them decide which weights it uses.
    free = [name for name in CIRCUMSTANCES if name != "evaluate_every" or not fields.get("select")]
    experiment = {k: value for k, value in fields.items() if k not in free and value is not None}
    rest = {name: about.get(name) for name in ("seed", "prefix_cache")}
    return {"experiment": experiment, "classes": about["classes"], **rest}

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
  """Returns the state before the first step: fresh, or `start` matched by path.

  The head stays fresh if the class lists differ, or with `fresh_head`, and so do parameters that the model
  adds to a backbone and `start` lacks. Raises CheckpointError if anything else does not fit.
  """
  params, batch_stats = init_model(program.model, key, image_shape)
  if start is not None:
    keep = tuple(start.classes) == tuple(classes) and not fresh_head
    allow = [] if keep else [rf"^{program.model.head}/"]
    added = program.model.added
    if added and not any(re.search(added, path) for path in tree.paths(start.params)):
      allow.append(added)
    params = weights.match(start.params, params, allow=allow)
    batch_stats = weights.match(start.batch_stats, batch_stats)
  return init_state(params, batch_stats, program.tx, gradient=program.gradient)


def _evaluations(
  experiment: Experiment, program: Program, runtime: Runtime
) -> dict[str, tuple[int | None, Observer]]:
  """Returns the evaluation sets as observers, each with its period."""
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
  """Returns the config of a checkpoint: enough to build the model and to preprocess for it."""
  # Training transforms are not preprocessing: they draw at random.
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
      "order": data_lib.ORDER_VERSION,
    }
  )
