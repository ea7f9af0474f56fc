"""A config in numbers, before anything runs: parameters, what decays, steps, images per device."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl import config as config_lib
from jaxtl import tree
from jaxtl.config import Spec
from jaxtl.runner.config_file import hook, parse_config
from jaxtl.runner.plan import DataFacts, Extent, facts
from jaxtl.runner.run import rehearse_arm
from jaxtl.train import sharding
from jaxtl.train.device_memory import predict
from jaxtl.train.experiment import Experiment, Program, rehearse, total_steps
from jaxtl.train.runtime import Runtime
from jaxtl.types import Params, TrainState

# Lines about what is not there, of which a study of many data sets may have many.
MOST_MISSING = 4


def describe(config: Mapping[str, Any], runtime: Runtime, *, compiled: str = "none") -> str:
  """What every arm amounts to; arms that train are realized, their initialisation and step traced by
  `jax.eval_shape`. The first arm is told whole, the others by what differs from it.

  Needs no accelerator, and no data where the config says `num_examples`, `num_classes` and the transforms say
  the image size. A study that is more than an experiment, or none, describes itself by the `Extent` that its
  module's `extent(study, runtime)` returns; missing data and checkpoints are lines of it.

  Args:
    config: of `study.load_config`.
    runtime: its mesh is what sizes are told for.
    compiled: "first", "all" or "none": which arms' steps are compiled, for the memory of their activations.

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
  table: list[str] = []
  first: dict[str, Any] | None = None
  first_extent: Extent | None = None
  compile_now = compiled != "none"
  for name, arm in arms.items():
    rehearse_arm(rows, name, arm, runtime)
    lines += ["", f"arm        {name}"]
    if isinstance(arm, Experiment):
      described, parameters = _experiment(arm, runtime, compile_now)
      lines += described
      table = table or parameters
      compile_now = compiled == "all"
    if extent_of := hook(rows, "extent"):
      extent = extent_of(arm, runtime)
      if extent != first_extent:
        lines += _extent(extent, runtime, compile_now and compiled)
      first_extent = first_extent or extent
      compile_now = compile_now and not (compiled == "first" and extent.is_known)
    shown = {"model", "gradient", "optimizer", "task"} if isinstance(arm, Experiment) else set()
    rest = {key: value for key, value in config_lib.plain(arm).items() if key not in shown}
    if first is None:
      first = rest
      for field, value in rest.items():
        lines += _outline(field, value) if value not in (None, {}) else []
    else:
      for line in config_lib.differences(first, rest):
        lines.append(f"differs    {line.partition(':')[0]} = {line.rpartition(' -> ')[2]}")
  return "\n".join([*lines, *([""] if table else []), *table]) + "\n"


def _experiment(experiment: Experiment, runtime: Runtime, compiled: bool) -> tuple[list[str], list[str]]:
  known = facts(experiment.data, runtime)
  traced = _traced(experiment, known, runtime)
  task = config_lib.plain(experiment.task)
  size, batch = known.image_size, experiment.data.batch_size
  lines = [
    f"model      {_call(experiment.model)} at {size} x {size}, {known.num_classes} classes",
    f"loss       {_text(task.get('loss', task))}",
    f"gradient   {_call(experiment.gradient)}",
    f"optimizer  {_call(experiment.optimizer)}",
    _steps(experiment, known),
    f"devices    {_devices(runtime.mesh)}, {batch // runtime.mesh.shape[sharding.DATA]} images on each",
    *traced.lines(experiment, known, runtime.mesh, compiled),
  ]
  return lines, _table(traced.program, traced.state.params, traced.decayed, runtime.mesh)


@dataclasses.dataclass(frozen=True)
class _Traced:
  """A training's program, and the shapes of its state."""

  program: Program
  state: TrainState
  decayed: Mapping[str, bool]

  def lines(self, experiment: Experiment, known: DataFacts, mesh: Any, compiled: bool) -> list[str]:
    """Parameters and memory."""
    params = self.state.params
    sizes = {path: leaf.size for path, leaf in zip(tree.paths(params), jax.tree.leaves(params))}
    memory = predict(
      self.program,
      self.state,
      batch_size=experiment.data.batch_size,
      image_size=known.image_size,
      mesh=mesh,
      compiled=compiled,
    )
    decayed = sum(sizes[path] for path in sizes if self.decayed[path])
    return [
      f"parameters {sum(sizes.values()):,}, {decayed:,} decayed; "
      f"optimizer state {tree.size(self.state.opt_state):,}",
      f"memory     {memory}",
    ]


def _traced(experiment: Experiment, known: DataFacts, runtime: Runtime) -> _Traced:
  program, state = rehearse(experiment, **dataclasses.asdict(known), mesh=runtime.mesh)
  assert state is not None  # the size is known
  return _Traced(program, state, decays(program, state.params))


def _steps(experiment: Experiment, known: DataFacts | None) -> str:
  batch = experiment.data.batch_size
  if known is None:
    length = f"{experiment.steps}" if experiment.epochs is None else f"{experiment.epochs:g} epochs"
    return f"steps      {length} in batches of {batch}"
  examples, steps = known.num_examples, total_steps(experiment, known.num_examples)
  epochs = steps * batch / examples if experiment.epochs is None else experiment.epochs
  return f"steps      {steps} = {epochs:g} epochs of {examples} images in batches of {batch}"


def _extent(extent: Extent, runtime: Runtime, compiled: str | bool) -> list[str]:
  """A study that is no experiment itself; of its trainings that are known "first" or "all" are compiled."""
  more = len(extent.missing) - MOST_MISSING
  lines = [f"missing    {text}" for text in extent.missing[:MOST_MISSING]]
  lines += [f"missing    {more} more"] if more > 0 else []
  lines += [f"{what:10} {text}" for what, text in extent.lines]
  for name, training in extent.trainings.items():
    planned, known = training.experiment, training.facts
    lines.append(f"{'training' if training.is_training else 'gradient':10} {name}")
    found = [_steps(planned, known)] if training.is_training else []
    if training.has_model and known is not None:
      found += _traced(planned, known, runtime).lines(planned, known, runtime.mesh, bool(compiled))
      compiled = compiled == "all" and compiled
    lines += [f"  {line}" for line in found]
  return lines


def _table(program: Program, params: Params, decayed: Mapping[str, bool], mesh: Any) -> list[str]:
  """Every parameter: its shape, its part on a device, whether it decays."""
  placed = jax.tree.leaves(sharding.placed(params, program.placement, mesh))
  rows = [("parameter", "shape", "on a device", "decayed")]
  for path, leaf, where in zip(tree.paths(params), jax.tree.leaves(params), placed, strict=True):
    part = where.shard_shape(leaf.shape)
    whole = "replicated" if part == leaf.shape else str(part)
    rows.append((path, str(leaf.shape), whole, "yes" if decayed[path] else "no"))
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [" ".join(f"{text:{width}}" for text, width in zip(row, widths)).rstrip() for row in rows]


def _devices(mesh: Any) -> str:
  """How many, and how they are arranged where that is not a single row."""
  data, model = mesh.shape[sharding.DATA], mesh.shape[sharding.MODEL]
  return f"{mesh.size}" if model == 1 else f"{mesh.size} = {data} x {model} (data x model)"


def decays(program: Program, params: Params) -> dict[str, bool]:
  """Whether weight decay moves each parameter: what the optimiser does to it when its gradient is zero."""
  ones = jax.tree.map(lambda _: jnp.ones(()), params)
  zeros, state = tree.zeros_like(ones), program.tx.init(ones)
  _, state = program.tx.update(zeros, state, ones)  # a warm-up from 0 moves nothing in its first step
  updates, _ = program.tx.update(zeros, state, ones)
  return {path: bool(update != 0) for path, update in zip(tree.paths(updates), jax.tree.leaves(updates))}


def _outline(name: str, value: Any, *, depth: int = 0) -> list[str]:
  """One line per value, nested mappings indented; components and lists as calls."""
  indent = "  " * depth
  if not isinstance(value, Mapping) or any(kind in value for kind in config_lib.KINDS):
    return [f"{indent}{name:10} {_text(value)}"]
  lines = [f"{indent}{name}"]
  for key, item in value.items():
    if item not in (None, {}, []):
      lines += _outline(key, item, depth=depth + 1)
  return lines


def _call(spec: Spec) -> str:
  return _text(config_lib.plain(spec))


def _text(value: Any) -> str:
  """A spec as a call: `.optim.sam(rho=0.05)`."""
  if isinstance(value, (list, tuple)):
    return f"[{', '.join(map(_text, value))}]"
  if not isinstance(value, Mapping):
    return repr(value)
  kind = next((kind for kind in config_lib.KINDS if kind in value), None)
  arguments = ", ".join(f"{key}={_text(item)}" for key, item in value.items() if key != kind)
  return f"{value[kind]}({arguments})" if kind else f"{{{arguments}}}"
