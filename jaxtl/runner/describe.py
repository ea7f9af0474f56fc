"""Describes a config before anything runs: parameters, weight decay, steps, and images per device."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl import config as config_lib
from jaxtl import tree
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import Spec, call
from jaxtl.errors import DataError
from jaxtl.runner.config_file import parse_config
from jaxtl.runner.plan import DataFacts, Images, Plan, Training, existing_start
from jaxtl.runner.preflight import rehearse_arm
from jaxtl.train import sharding
from jaxtl.train.device_memory import predict
from jaxtl.train.experiment import Experiment, Program, total_steps
from jaxtl.train.runtime import Runtime
from jaxtl.types import Params, TrainState

# The most lines about missing inputs that are shown; a study of many data sets may have many of them.
MOST_MISSING = 4
UNKNOWN = "unknown"  # shown for a number of images that is not known


def describe(config: Mapping[str, Any], runtime: Runtime, *, compiled: str = "none") -> str:
  """Describes every arm: the lines and the trainings of its plan, traced by `jax.eval_shape`.

  It needs no accelerator. It needs no data either if the config specifies `num_examples` and `num_classes`,
  and its transforms specify the image size. Missing data and checkpoints are reported as lines. The first arm
  is described in full, the others by their differences from it.

  Args:
    config: from `config_file.load_config`.
    runtime: its mesh is the one for which sizes are computed.
    compiled: which arms' steps are compiled, for the memory of their activations: "first", "all" or "none".

  Raises:
    ConfigError: a mistake anywhere in the config.
  """
  study, arms = parse_config(config)
  rows = config_lib.find(study.study)
  lines = [
    f"study      {study.study}",
    f"arms       {', '.join(arms)}",
    f"seeds      {', '.join(map(str, study.seeds))}",
  ]
  described = _Described(runtime, compiled)
  first: dict[str, Any] | None = None
  for name, arm in arms.items():
    plan = rehearse_arm(rows, name, arm, runtime)
    lines += ["", f"arm        {name}", *described.arm(plan)]
    shown = {"model", "gradient", "optimizer", "task"} if isinstance(arm, Experiment) else set()
    rest = {key: value for key, value in config_lib.plain(arm).items() if key not in shown}
    if first is None:
      first = rest
      for field, value in rest.items():
        lines += _outline(field, value) if value not in (None, {}) else []
    else:
      for line in config_lib.differences(first, rest):
        lines.append(f"differs    {line.partition(':')[0]} = {line.rpartition(' -> ')[2]}")
  return "\n".join([*lines, *([""] if described.table else []), *described.table]) + "\n"


class _Described:
  """A description of one arm after the other, which remembers what it has described.

  Attributes:
    table: the parameters of the first training that is described in full.
  """

  def __init__(self, runtime: Runtime, compiled: str) -> None:
    self.table: list[str] = []
    self._runtime = runtime
    self._compiled = compiled
    self._may_compile = compiled != "none"
    self._first: tuple[list[str], list[Experiment]] | None = None
    self._weights: dict[str, Weights | None] = {}

  def arm(self, plan: Plan) -> list[str]:
    """Returns the lines of a plan; omits those after the whole trainings if the first arm has the same."""
    whole = [training for training in plan.trainings.values() if training.is_whole]
    head = [line for training in whole for line in self._whole(training)]
    lines = self._lines(plan, may_compile=False)
    trained = [
      training.experiment(training.facts_in_config())
      for training in plan.trainings.values()
      if training.is_listed and not training.is_whole
    ]
    if (lines, trained) == self._first:
      return head
    self._first = self._first or (lines, trained)
    return [*head, *(self._lines(plan, may_compile=True) if self._may_compile else lines)]

  def _lines(self, plan: Plan, *, may_compile: bool) -> list[str]:
    """Returns lines about missing inputs, the networks, the plan's own lines, and its trainings."""
    missing: list[str] = []
    for path in plan.starts.values():
      if self._start(path) is None:
        _add(missing, f"no checkpoint at {path}: make it first; its parameters and memory are shown then")
    lines = self._starts(plan)
    for line in plan.lines:
      lines += self._line(line, missing)
    for name, training in plan.trainings.items():
      if training.is_listed and not training.is_whole:
        lines += self._training(name, training, missing, may_compile=may_compile)
    more = len(missing) - MOST_MISSING
    first = [f"missing    {text}" for text in missing[:MOST_MISSING]]
    return [*first, *([f"missing    {more} more"] if more > 0 else []), *lines]

  def _compiles(self) -> bool:
    """Returns whether to compile the next training whose model and images are known."""
    now = self._may_compile
    self._may_compile = now and self._compiled == "all"
    return now

  def _start(self, path: str) -> Weights | None:
    """Loads the checkpoint at a path, once; returns None if it is missing."""
    if path not in self._weights:
      self._weights[path] = existing_start(path)
    return self._weights[path]

  def _starts(self, plan: Plan) -> list[str]:
    found = [self._start(path) for path in plan.starts.values()]
    return [
      f"network    {call(config_lib.plain(start.model_spec(trust=self._runtime.trust)))}, "
      f"{tree.size(start.params):,} parameters"
      for start in found
      if start is not None
    ]

  def _line(self, line: Any, missing: list[str]) -> list[str]:
    """Formats one line of a plan; adds the inputs that it lacks to `missing`."""
    if not isinstance(line, Images):
      what, text = line
      try:
        return [f"{what:10} {text() if callable(text) else text}"]
      except DataError as error:
        _add(missing, str(error))
        return []
    texts, opened = [], True
    for text, data in line.parts:
      count: Any = data.num_examples
      opened = opened and count is None
      try:
        count = len(self._runtime.open(data)) if count is None else count
      except DataError as error:
        _add(missing, str(error))
        count, opened = UNKNOWN, False
      texts.append(text.format(count))
    for text in line.missing:
      _add(missing, text)
    if opened and not line.missing and line.check is not None:
      line.check()
    label = f": {line.label}" if line.label else ""
    return [f"images     {', '.join([*texts, *line.more])}{label}"]

  def _training(self, name: str, training: Training, missing: list[str], *, may_compile: bool) -> list[str]:
    known = self._facts(training, missing)
    experiment = training.experiment(known)
    size = f" at {known.image_size} x {known.image_size}" if known.image_size else ""
    lines = [f"training   {name}" if training.takes_steps else f"gradient   {name}{size}"]
    if training.takes_steps:
      lines.append(f"  {_steps(experiment, known)}")
    if training.has_model and known.is_complete:
      traced = _traced(training, known, self._runtime)
      lines += [
        f"  {line}"
        for line in traced.lines(experiment, known, self._runtime.mesh, may_compile and self._compiles())
      ]
    return lines

  def _whole(self, training: Training) -> list[str]:
    """Describes an experiment with loss, optimiser and devices; tabulates the parameters of the first one."""
    missing: list[str] = []
    known = self._facts(training, missing)
    experiment = training.experiment(known)
    task = config_lib.plain(experiment.task)
    size, mesh = known.image_size, self._runtime.mesh
    on_each = experiment.data.batch_size // mesh.shape[sharding.DATA]
    where = f" at {size} x {size}, {known.num_classes} classes" if known.is_complete else ""
    lines = [
      *(f"missing    {text}" for text in missing),
      f"model      {_call(experiment.model)}{where}",
      f"loss       {_text(task.get('loss', task))}",
      f"gradient   {_call(experiment.gradient)}",
      f"optimizer  {_call(experiment.optimizer)}",
      _steps(experiment, known),
      f"devices    {_devices(mesh)}, {on_each} images on each",
    ]
    if not known.is_complete:
      return lines
    traced = _traced(training, known, self._runtime)
    self.table = self.table or _table(traced.program, traced.state.params, traced.decayed, mesh)
    return [*lines, *traced.lines(experiment, known, mesh, self._compiles())]

  def _facts(self, training: Training, missing: list[str]) -> DataFacts:
    """Returns the facts about a training's images, from the config alone if the data cannot be opened."""
    try:
      return training.facts(self._runtime)
    except DataError as error:
      _add(missing, str(error))
      return training.facts_in_config()


def _add(missing: list[str], text: str) -> None:
  if text not in missing:
    missing.append(text)


@dataclasses.dataclass(frozen=True)
class _Traced:
  """A training's program, and the shapes of its state."""

  program: Program
  state: TrainState
  decayed: Mapping[str, bool]

  def lines(self, experiment: Experiment, known: DataFacts, mesh: Any, compiled: bool) -> list[str]:
    """Returns one line about parameters and one about memory."""
    params = self.state.params
    sizes = {path: leaf.size for path, leaf in zip(tree.paths(params), jax.tree.leaves(params))}
    memory = predict(
      self.program,
      self.state,
      batch_size=experiment.data.batch_size,
      image_size=known.image_size or 0,
      mesh=mesh,
      compiled=compiled,
    )
    decayed = sum(sizes[path] for path in sizes if self.decayed[path])
    return [
      f"parameters {sum(sizes.values()):,}, {decayed:,} decayed; "
      f"optimizer state {tree.size(self.state.opt_state):,}",
      f"memory     {memory}",
    ]


def _traced(training: Training, known: DataFacts, runtime: Runtime) -> _Traced:
  program, state = training.traced_at(known, runtime.mesh)
  assert state is not None  # the size is known
  return _Traced(program, state, decays(program, state.params))


def _steps(experiment: Experiment, known: DataFacts) -> str:
  batch, examples = experiment.data.batch_size, known.num_examples
  if examples is None:
    length = f"{experiment.steps}" if experiment.epochs is None else f"{experiment.epochs:g} epochs"
    return f"steps      {length} in batches of {batch}"
  steps = total_steps(experiment, examples)
  epochs = steps * batch / examples if experiment.epochs is None else experiment.epochs
  return f"steps      {steps} = {epochs:g} epochs of {examples} images in batches of {batch}"


def _table(program: Program, params: Params, decayed: Mapping[str, bool], mesh: Any) -> list[str]:
  """Returns a table of all parameters: shape, part on a device, and whether it decays."""
  placed = jax.tree.leaves(sharding.placed(params, program.placement, mesh))
  rows = [("parameter", "shape", "on a device", "decayed")]
  for path, leaf, where in zip(tree.paths(params), jax.tree.leaves(params), placed, strict=True):
    part = where.shard_shape(leaf.shape)
    whole = "replicated" if part == leaf.shape else str(part)
    rows.append((path, str(leaf.shape), whole, "yes" if decayed[path] else "no"))
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [" ".join(f"{text:{width}}" for text, width in zip(row, widths)).rstrip() for row in rows]


def _devices(mesh: Any) -> str:
  """Returns the number of devices, and their arrangement unless it is a single row."""
  data, model = mesh.shape[sharding.DATA], mesh.shape[sharding.MODEL]
  return f"{mesh.size}" if model == 1 else f"{mesh.size} = {data} x {model} (data x model)"


def decays(program: Program, params: Params) -> dict[str, bool]:
  """Returns whether weight decay moves each parameter: whether it is updated when all gradients are zero."""
  ones = jax.tree.map(lambda _: jnp.ones(()), params)
  zeros, state = tree.zeros_like(ones), program.tx.init(ones)
  _, state = program.tx.update(zeros, state, ones)  # a warm-up from 0 moves nothing in its first step
  updates, _ = program.tx.update(zeros, state, ones)
  return {path: bool(update != 0) for path, update in zip(tree.paths(updates), jax.tree.leaves(updates))}


def _outline(name: str, value: Any, *, depth: int = 0) -> list[str]:
  """Returns one line per value, with nested mappings indented, and components and lists written as calls."""
  indent = "  " * depth
  if not isinstance(value, Mapping) or config_lib.names_component(value):
    return [f"{indent}{name:10} {_text(value)}"]
  lines = [f"{indent}{name}"]
  for key, item in value.items():
    if item not in (None, {}, []):
      lines += _outline(key, item, depth=depth + 1)
  return lines


def _call(spec: Spec) -> str:
  return _text(config_lib.plain(spec))


def _text(value: Any) -> str:
  """Formats a spec as a call, such as `.optim.sam(rho=0.05)`."""
  if isinstance(value, (list, tuple)):
    return f"[{', '.join(map(_text, value))}]"
  if not isinstance(value, Mapping):
    return repr(value)
  kind = next((kind for kind in config_lib.KINDS if kind in value), None)
  arguments = ", ".join(f"{key}={_text(item)}" for key, item in value.items() if key != kind)
  return f"{value[kind]}({arguments})" if kind else f"{{{arguments}}}"
