"""Checkpoints on disk: orbax with three items, `model`, `optimizer` and `config`, and their manifest.

Transfer and export read only `model` and `config`. The config item is JSON data: the names in it are imported
only from the public parts of jaxtl and optax (`config.TRUSTED`), unless the user allows others.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxtl import config as config_lib
from jaxtl.checkpoints import manifest as manifest_lib
from jaxtl.config import Spec
from jaxtl.errors import CheckpointError, DamagedError, StorageError, essence
from jaxtl.host.files import write_atomically
from jaxtl.types import Params

FOLDER = "checkpoints"
# The weights that a run with `Experiment.select` uses; its `checkpoints` are those to resume from.
SELECTED = "selected"
logging.getLogger("absl").setLevel(logging.ERROR)  # orbax logs its every step


@dataclasses.dataclass(frozen=True)
class Weights:
  """A trained model as data.

  Attributes:
    params, batch_stats: trees of numpy arrays.
    config: JSON data: `model` (a spec), `classes`, `image_shape`, `transforms` (evaluation preprocessing,
      None if the run evaluated nothing), `step`, and provenance.
    path: where the weights came from.
  """

  params: Params
  batch_stats: Params
  config: dict[str, Any]
  path: str

  @property
  def classes(self) -> tuple[str, ...]:
    return tuple(self.config["classes"])

  def model_spec(self, *, trust: bool = False) -> Spec:
    """Returns the spec that makes the model.

    It may name only the public parts of jaxtl and optax, unless `trust` is true.
    """
    trusted = None if trust else config_lib.TRUSTED
    return config_lib.spec(self.config["model"], at="the checkpoint's model", trusted=trusted)


def save_weights(weights: Weights, folder: Path) -> None:
  """Writes weights that are not from a run as step 0 of a folder of checkpoints, completely or not at all.

  Args:
    weights: its `config` has the fields that `Weights` documents.
    folder: created; must not exist.
  """
  partial = folder.with_name(f".{folder.name}.partial")
  shutil.rmtree(partial, ignore_errors=True)
  step = (partial / FOLDER / "0").absolute()
  items = {"model": {"params": weights.params, "batch_stats": weights.batch_stats}}
  try:
    step.parent.mkdir(parents=True)
    with writer() as orbax:
      orbax.save(step, args=save_arguments(items, {**weights.config, "step": 0}))
    manifest_lib.write(step, 0, manifest_lib.leaves_of(items))
    write_atomically(partial / "classes.json", json.dumps(list(weights.classes), ensure_ascii=False) + "\n")
    partial.rename(folder)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def load(path: str | Path) -> Weights:
  """Verifies and loads the model item of a checkpoint; needs no model code and no accelerator.

  Args:
    path: a run's folder, its `checkpoints` folder, or one step inside.

  Raises:
    CheckpointError: there is no checkpoint at `path`, it is damaged, or its manifest has another format.
    StorageError: it cannot be read.
  """
  step = find(path)
  saved = manifest_lib.verify_files(step)
  try:
    config = read_config(step)
    model = read_item(step / "model")
    params, batch_stats = model["params"], model.get("batch_stats") or {}
  except Exception as error:  # orbax raises what its readers raise; any error makes the file unusable
    raise unusable(f"{step} cannot be read as a checkpoint", error) from error
  manifest_lib.verify_leaves(saved, {"model": model}, at=str(step))
  return Weights(params, batch_stats, config, str(step))


def read_item(folder: Path) -> Any:
  """Reads one item of a step as a tree of numpy arrays; every container becomes a dictionary."""
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    metadata = reader.metadata(folder).item_metadata.tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata)
    return reader.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy))


# Levels between a study's folder and that of a fine-tuning: ARM/SEED/transfer/TARGET/fine_tune.
_DEEPEST = 5


def find(path: str | Path) -> Path:
  """Returns the step folder to use at or below `path`: the selected weights of a run, else the newest.

  Raises:
    CheckpointError: the path is remote, does not exist, or has no step.
  """
  if "://" in str(path):
    raise CheckpointError(f"expected a checkpoint on this machine, got {str(path)!r}; mount or copy it first")
  path = Path(path).absolute()
  if not path.is_dir():
    raise CheckpointError(f"no checkpoint at {path}: there is no such folder")
  if (path / "model").is_dir():
    return path
  folder = steps_folder(path)
  steps = steps_in(folder)
  if not steps:
    raise CheckpointError(
      f"no checkpoint at {path}: expected a run's folder or a folder of steps{_below(path)}"
    )
  return folder / str(max(steps))


def _below(path: Path) -> str:
  """Names up to three runs below a folder that is none itself, as text that ends a message."""
  levels = ("/".join(["*"] * depth) for depth in range(1, _DEEPEST + 1))
  runs = [
    found.parent for level in levels for found in sorted(path.glob(f"{level}/{FOLDER}")) if steps_in(found)
  ]
  if not runs:
    return ""
  shown = ", ".join(str(run) for run in runs[:3])
  return f", such as {shown}{' and more' * (len(runs) > 3)}"


def steps_folder(path: Path) -> Path:
  """Returns the folder of the steps: a run's `selected`, else its `checkpoints`, or `path` itself."""
  if steps_in(path / SELECTED):
    return path / SELECTED
  return path / FOLDER if (path / FOLDER).is_dir() else path


def steps_in(folder: Path) -> list[int]:
  """Returns the steps that have a folder, complete or not, in no particular order.

  A folder named 07 does not count, and neither does the run of a seed: an arm may be called `selected`.
  """
  if not folder.is_dir():
    return []
  names = [child.name for child in folder.iterdir() if child.name.isdecimal() and child.is_dir()]
  return [int(name) for name in names if name == str(int(name)) and not _is_run(folder / name)]


def _is_run(folder: Path) -> bool:
  """Returns whether a folder holds a run or the rows of a study, rather than one of its steps."""
  return any(
    (folder / name).exists() for name in (FOLDER, SELECTED, "metrics.jsonl", "rows.jsonl", "transfer")
  )


def writer() -> ocp.AsyncCheckpointer:
  """Returns the orbax checkpointer that writes and restores the three items of a step."""
  # Uncompressed: compression saves 7 % on trained weights, and takes longer than computing both digests.
  handlers = {name: ocp.PyTreeCheckpointHandler(use_compression=False) for name in ("model", "optimizer")}
  return ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(config=ocp.JsonCheckpointHandler(), **handlers))


def save_arguments(items: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
  """Returns orbax's arguments for the trees of arrays `items` and the JSON item `config`."""
  trees = {name: ocp.args.PyTreeSave(item) for name, item in items.items()}
  return ocp.args.Composite(config=ocp.args.JsonSave(dict(config)), **trees)


def read_config(step: Path) -> dict[str, Any]:
  """Reads the config item of a step."""
  with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
    return reader.restore(step / "config")


def unusable(what: str, error: Exception) -> CheckpointError | StorageError:
  """Returns the error to raise for a part of a checkpoint whose reader raised `error`."""
  kind = StorageError if isinstance(error, OSError) else DamagedError
  return kind(f"{what}: {essence(error)}")
