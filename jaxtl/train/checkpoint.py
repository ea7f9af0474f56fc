"""Checkpoints: orbax with three named items, `model`, `optimizer` and `config`.

Transfer and export read `model` and `config` only. The config item is JSON and is data: what it names is
imported only from the public parts of jaxtl and optax (`config.TRUSTED`), unless the user says otherwise.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxtl import config as config_lib
from jaxtl.config import Spec
from jaxtl.errors import CheckpointError
from jaxtl.optim import averaged
from jaxtl.train.step import TrainState
from jaxtl.train.writer import write_atomically
from jaxtl.types import Params

FOLDER = "checkpoints"
logging.getLogger("absl").setLevel(logging.ERROR)  # orbax tells every step it takes


@dataclasses.dataclass(frozen=True)
class Weights:
  """A trained model as data.

  Attributes:
    params, batch_stats: trees of numpy arrays.
    config: JSON data: `model` (a spec), `classes`, `image_shape`, `transforms` (evaluation preprocessing,
      None where the run evaluated nothing), `step`, and provenance.
    path: where it came from.
  """

  params: Params
  batch_stats: Params
  config: dict[str, Any]
  path: str

  @property
  def classes(self) -> tuple[str, ...]:
    return tuple(self.config["classes"])

  def model_spec(self, *, trust: bool = False) -> Spec:
    """What makes its model; only from the library's own and optax's public parts, unless `trust`."""
    trusted = None if trust else config_lib.TRUSTED
    return config_lib.spec(self.config["model"], at="the checkpoint's model", trusted=trusted)


class Checkpointer:
  """The checkpoints of one run.

  Args:
    folder: made when first written to.
    keep: how many of the newest steps stay.
  """

  def __init__(self, folder: Path, *, keep: int = 1):
    self._folder = folder.absolute()
    options = ocp.CheckpointManagerOptions(
      max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=True, create=True
    )
    self._manager = ocp.CheckpointManager(self._folder, options=options)

  def latest_step(self) -> int | None:
    """The newest complete step, None where there is none."""
    return self._manager.latest_step()

  def save(self, state: TrainState, config: dict[str, Any]) -> None:
    """Writes the state as its step; a step that is there already is left alone."""
    step = int(state.step)
    if self._manager.latest_step() == step:
      return
    model, optimizer = _items(state)
    self._manager.save(
      step,
      args=ocp.args.Composite(
        model=ocp.args.StandardSave(model),
        optimizer=ocp.args.StandardSave(optimizer),
        config=ocp.args.JsonSave({**config, "step": step}),
      ),
    )

  def restore(self, like: TrainState) -> TrainState:
    """The newest state, placed as `like` is.

    Raises:
      CheckpointError: it does not have the structure and shapes of `like`.
    """
    step = self._manager.latest_step()
    model, optimizer = _items(jax.tree.map(ocp.utils.to_shape_dtype_struct, like))
    try:
      restored = self._manager.restore(
        step,
        args=ocp.args.Composite(
          model=ocp.args.StandardRestore(model), optimizer=ocp.args.StandardRestore(optimizer)
        ),
      )
    except (ValueError, KeyError, FileNotFoundError) as error:
      first = str(error).strip().splitlines()[0]
      raise CheckpointError(f"{self._folder / str(step)} does not fit this run: {first}") from error
    return TrainState(**{**restored["model"], **restored["optimizer"]})

  def config(self) -> dict[str, Any]:
    """The config item of the newest step."""
    step = self._manager.latest_step()
    return self._manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))["config"]

  def close(self) -> None:
    self._manager.close()


def _items(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
  """The model item holds the weights to use; where they are an average, the optimizer item has the others."""
  used = averaged(state.opt_state, state.params)
  optimizer = {"step": state.step, "opt_state": state.opt_state, "memory": state.memory}
  if used is not state.params:
    optimizer["params"] = state.params
  return {"params": used, "batch_stats": state.batch_stats}, optimizer


def save_weights(weights: Weights, folder: Path) -> None:
  """Writes weights that come from no run as step 0 of a folder of checkpoints: all of it or nothing.

  Args:
    weights: `config` is as `Weights` says.
    folder: is made; must not exist.
  """
  partial = folder.with_name(f".{folder.name}.partial")
  shutil.rmtree(partial, ignore_errors=True)
  try:
    with ocp.CheckpointManager((partial / FOLDER).absolute()) as manager:
      model = {"params": weights.params, "batch_stats": weights.batch_stats}
      config = {**weights.config, "step": 0}
      items = ocp.args.Composite(model=ocp.args.StandardSave(model), config=ocp.args.JsonSave(config))
      manager.save(0, args=items)
    write_atomically(partial / "classes.json", json.dumps(list(weights.classes), ensure_ascii=False) + "\n")
    partial.rename(folder)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def load(path: str | Path) -> Weights:
  """The model item of a checkpoint, needing no model code and no accelerator.

  Args:
    path: a run's folder, its `checkpoints` folder, or one step inside.

  Raises:
    CheckpointError: there is no checkpoint at `path`, or it is damaged.
  """
  step = find(path)
  try:
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as json_reader:
      config = json_reader.restore(step / "config")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
      metadata = reader.metadata(step / "model").item_metadata.tree
      as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata)
      model = reader.restore(step / "model", args=ocp.args.PyTreeRestore(restore_args=as_numpy))
  except Exception as error:  # orbax raises what its readers raise; whatever it is, the file cannot be used
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise CheckpointError(f"{step} cannot be read as a checkpoint: {first}") from error
  return Weights(model["params"], model.get("batch_stats") or {}, config, str(step))


def find(path: str | Path) -> Path:
  """The newest step folder at or below `path`."""
  path = Path(path).absolute()
  if not path.is_dir():
    raise CheckpointError(f"no checkpoint at {path}: there is no such folder")
  if (path / "model").is_dir():
    return path
  folder = path / FOLDER if (path / FOLDER).is_dir() else path
  steps = [child for child in folder.iterdir() if child.name.isdigit() and (child / "model").is_dir()]
  if not steps:
    raise CheckpointError(f"no checkpoint at {path}: expected a run's folder or a folder of steps")
  return max(steps, key=lambda child: int(child.name))
