"""Cells, and the rows that they write to a working folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from jaxtl import config as config_lib
from jaxtl.errors import InputError
from jaxtl.host import sealed_json
from jaxtl.runner import provenance


@dataclasses.dataclass(frozen=True)
class Cell:
  """One arm with one seed: the smallest part of a study whose rows are saved when it is finished."""

  arm: str
  seed: int
  study: Any
  folder: Path

  @property
  def rows_file(self) -> Path:
    return self.folder / "rows.jsonl"


def read_rows(path: Path) -> list[dict[str, Any]]:
  """Reads the rows of one cell.

  Raises:
    InputError: the file is damaged.
  """
  try:
    found = sealed_json.read_lines(path)
    if not all(isinstance(row.get("arm"), str) and isinstance(row.get("seed"), int) for row in found):
      raise ValueError("a row without arm and seed")
    return found
  except ValueError as error:
    raise InputError(f"{path} is damaged ({error}); jaxtl run measures its cell again") from error


def all_rows(workdir: Path) -> list[dict[str, Any]]:
  """Reads the rows of all finished cells, in the order of the config's arms and seeds.

  Raises:
    InputError: no study ran in `workdir`.
  """
  if not (workdir / "config.json").is_file():
    raise InputError(f"no study in {workdir}: there is no config.json; give the --workdir of a run")
  config = provenance.read_json(workdir / "config.json")
  arms, seeds = config.get("arms"), config.get("seeds", [])
  if not isinstance(arms, dict) or not isinstance(seeds, list) or not {*map(type, seeds)} <= {int}:
    raise InputError(f"{workdir / 'config.json'} has no arms and seeds; give the --workdir of a run")
  config_lib.check_names(config["arms"], at=f"{workdir / 'config.json'}: arms")
  files = [
    workdir / arm / str(seed) / "rows.jsonl" for arm in config["arms"] for seed in config.get("seeds", [0])
  ]
  return [row for file in files if file.exists() for row in read_rows(file)]
