"""A config in numbers, before anything runs: parameters, what decays, steps, images per device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtl import config as config_lib
from jaxtl import tree
from jaxtl.config import Spec
from jaxtl.studies.study import parse_config, rehearse_arm
from jaxtl.train import sharding
from jaxtl.train.experiment import Experiment, Program, rehearse, total_steps
from jaxtl.train.memory import predict
from jaxtl.train.runtime import Data, Runtime
from jaxtl.train.sizes import image_size_of
from jaxtl.types import Params


def describe(config: Mapping[str, Any], runtime: Runtime, *, compiled: str = "none") -> str:
  """What every arm amounts to; arms that train are realized, their initialisation and step traced by
  `jax.eval_shape`. The first arm is told whole, the others by what differs from it.

  Needs no accelerator, and no data where the config says `num_examples`, `num_classes` and the transforms say
  the image size.

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
  for name, arm in arms.items():
    rehearse_arm(rows, name, arm, runtime)
    lines += ["", f"arm        {name}"]
    if isinstance(arm, Experiment):
      described, parameters = _experiment(
        arm, runtime, compiled == "all" or (compiled == "first" and not table)
      )
      lines += described
      table = table or parameters
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
  mesh, batch = runtime.mesh, experiment.data.batch_size
  examples, classes, size = _facts(experiment.data, runtime)
  steps = total_steps(experiment, examples)
  epochs = steps * batch / examples if experiment.epochs is None else experiment.epochs
  program, state = rehearse(
    experiment, num_classes=classes, num_examples=examples, image_size=size, mesh=mesh
  )
  assert state is not None
  decayed = decays(program, state.params)
  sizes = {path: leaf.size for path, leaf in zip(tree.paths(state.params), jax.tree.leaves(state.params))}
  task = config_lib.plain(experiment.task)
  memory = predict(program, state, batch_size=batch, image_size=size, mesh=mesh, compiled=compiled)
  lines = [
    f"model      {_call(experiment.model)} at {size} x {size}, {classes} classes",
    f"loss       {_text(task.get('loss', task))}",
    f"gradient   {_call(experiment.gradient)}",
    f"optimizer  {_call(experiment.optimizer)}",
    f"steps      {steps} = {epochs:g} epochs of {examples} images in batches of {batch}",
    f"devices    {_devices(mesh)}, {batch // mesh.shape[sharding.DATA]} images on each",
    f"parameters {sum(sizes.values()):,}, {sum(sizes[path] for path in sizes if decayed[path]):,} decayed; "
    f"optimizer state {tree.size(state.opt_state):,}",
    f"memory     {memory}",
  ]
  return lines, _table(program, state.params, decayed, mesh)


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


def _facts(data: Data, runtime: Runtime) -> tuple[int, int, int]:
  """Examples, classes and image size: what the config says, and else what the source holds."""
  size = image_size_of(data)
  if data.num_examples is None or data.num_classes is None or size is None:
    source = runtime.open(data)
    if size is None:
      size = next(iter(runtime.eval_batches(data)))["image"].shape[1]
    return len(source), len(source.classes), size
  return data.num_examples, data.num_classes, size


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
