"""Describes, verifies and compares checkpoints from their files alone, without any model.

It makes the texts of `jaxtl ckpt`. They report a manifest that is missing or damaged.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxtl import config as config_lib
from jaxtl import tree
from jaxtl.checkpoints import checkpoint
from jaxtl.checkpoints import manifest as manifest_lib
from jaxtl.errors import CheckpointError, DamagedError, StorageError
from jaxtl.host.files import size_text

_ITEMS = ("model", "optimizer")


@dataclasses.dataclass(frozen=True)
class Verdict:
  """The result of verifying a step.

  Attributes:
    step: its folder.
    problem: what is wrong, with the file or array; "" if nothing is.
    kind: "whole", "damaged", "unread" if the disk does not answer, or "unknown" if the format is another.
    num_files, num_leaves, num_bytes: the amount that was compared.
  """

  step: Path
  problem: str
  kind: str = "whole"
  num_files: int = 0
  num_leaves: int = 0
  num_bytes: int = 0

  def __str__(self) -> str:
    size = f"{self.num_files} files of {size_text(self.num_bytes)}, {self.num_leaves} arrays"
    return f"{self.kind:8} {self.step}: {self.problem or size}"


def describe(path: Path) -> str:
  """Describes the newest checkpoint at `path`: its model, classes and arrays, each with size and digest.

  The array files are not read, so a damaged checkpoint is described like an undamaged one; `verify` reads
  them.

  Raises:
    CheckpointError: there is none, or its manifest cannot be read.
  """
  step = checkpoint.find(path)
  manifest = manifest_lib.read(step)
  about = _config(step)
  lines = [
    f"checkpoint  {step}",
    f"step        {manifest.step}",
    f"size        {size_text(manifest.num_bytes)} in {len(manifest.files)} files",
    f"digest      {manifest.digest}",
    "verified    no: this is what the manifest and the config say; jaxtl ckpt verify reads every file",
  ]
  shown = ("model", "image_shape", "transforms", "seed")
  lines += [f"{name:11} {json.dumps(about[name])}" for name in shown if name in about]
  if classes := about.get("classes"):
    more = ", ..." if len(classes) > 5 else ""
    lines.append(f"classes     {len(classes)}: {', '.join(map(_shown, classes[:5]))}{more}")
  params = {path: leaf for path, leaf in manifest.leaves.items() if path.startswith("model/params/")}
  lines.append(f"parameters  {sum(_numbers(leaf) for leaf in params.values()):,} in {len(params)} arrays")
  others = sorted(set(checkpoint.steps_in(step.parent)) - {manifest.step})
  if others:
    lines.append(f"also here   {', '.join(map(str, others))}")
  width = max(map(len, manifest.leaves), default=0)
  lines += ["", f"{'array':{width}} {'type':20} {'numbers':>12} sha256"]
  for name, leaf in manifest.leaves.items():
    lines.append(f"{name:{width}} {leaf!s:20} {_numbers(leaf):12,} {(leaf.sha256 or 'in parts')[:16]}")
  return "\n".join(lines)


def verify(path: Path) -> Iterator[Verdict]:
  """Reads every step at or below `path` in full, and compares each file and array with what was saved.

  Raises:
    CheckpointError: there is no step.
  """
  steps = _steps_below(path)
  if not steps:
    raise CheckpointError(f"no checkpoint at or below {path}; give a run's folder, or a step inside")
  return map(_verdict, steps)


def differences(a: Path, b: Path) -> list[str]:
  """Lists how two checkpoints differ: config, arrays that only one has, and arrays that differ.

  The line of an array has the norm of the difference relative to the norm of the first one's values. Both
  checkpoints are verified first.
  """
  first, second = (checkpoint.find(path) for path in (a, b))
  manifests = [manifest_lib.verify_files(step) for step in (first, second)]
  lines = config_lib.differences(_config(first), _config(second), at="config")
  leaves = [manifest.leaves for manifest in manifests]
  lines += [f"{path}: {leaf} -> (absent)" for path, leaf in leaves[0].items() if path not in leaves[1]]
  lines += [f"{path}: (absent) -> {leaf}" for path, leaf in leaves[1].items() if path not in leaves[0]]
  shared = [path for path in leaves[0] if path in leaves[1]]
  unequal = [path for path in shared if leaves[0][path] != leaves[1][path] or leaves[0][path].sha256 is None]
  if not unequal:
    return lines
  values = [_arrays(step) for step in (first, second)]
  for path in unequal:
    if str(leaves[0][path]) != str(leaves[1][path]):
      lines.append(f"{path}: {leaves[0][path]} -> {leaves[1][path]}")
    elif not np.array_equal(values[0][path], values[1][path], equal_nan=True):
      lines.append(f"{path}: differs by {_relative(values[0][path], values[1][path]):.2e} of its norm")
  return lines


def _verdict(step: Path) -> Verdict:
  try:
    manifest = manifest_lib.verify_files(step)
    missing = set(manifest.leaves)
    for item, values in _read_items(step):
      manifest_lib.verify_leaves(manifest, {item: values}, at=str(step))
      missing -= set(tree.paths({item: values}))
    if missing:
      raise DamagedError(f"{min(missing)} was saved but is missing; use another step")
  except DamagedError as error:
    return Verdict(step, str(error), "damaged")
  except StorageError as error:
    return Verdict(step, str(error), "unread")
  except CheckpointError as error:
    return Verdict(step, str(error), "unknown")
  return Verdict(step, "", "whole", len(manifest.files), len(manifest.leaves), manifest.num_bytes)


def _read_items(step: Path) -> Iterator[tuple[str, Any]]:
  for item in _ITEMS:
    if not (step / item).is_dir():
      continue
    try:
      yield item, checkpoint.read_item(step / item)
    except Exception as error:  # orbax raises what its readers raise
      raise checkpoint.unusable(f"{step / item} cannot be read", error) from error


def _arrays(step: Path) -> dict[str, np.ndarray]:
  return {
    path: np.asarray(x)
    for item, values in _read_items(step)
    for path, x in zip(tree.paths({item: values}), jax.tree.leaves(values), strict=True)
  }


def _config(step: Path) -> dict[str, Any]:
  try:
    found = checkpoint.read_config(step)
  except Exception as error:  # orbax raises what its readers raise
    raise checkpoint.unusable(f"{step / 'config'} cannot be read", error) from error
  if not isinstance(found, dict) or not isinstance(found.get("classes", []), list):
    raise CheckpointError(f"{step / 'config'} is not the config of a checkpoint; use another step")
  return found


def _steps_below(path: Path) -> list[Path]:
  path = path.absolute()
  if (path / "model").is_dir():
    return [path]
  runs = sorted(path.rglob(checkpoint.FOLDER))
  selected = [folder.with_name(checkpoint.SELECTED) for folder in runs]
  folders = [checkpoint.steps_folder(path), *runs, *selected]
  return [
    folder / str(number)
    for folder in dict.fromkeys(folders)
    for number in sorted(checkpoint.steps_in(folder))
  ]


def _shown(name: Any) -> str:
  """Escapes control characters, because the text comes from others and is shown on a terminal."""
  return json.dumps(str(name), ensure_ascii=False)[1:-1]


def _numbers(leaf: manifest_lib.Leaf) -> int:
  return int(np.prod(leaf.shape))


def _relative(a: np.ndarray, b: np.ndarray) -> float:
  a, b = a.astype(np.float64), b.astype(np.float64)
  return float(np.linalg.norm(b - a) / (np.linalg.norm(a) or 1.0))
