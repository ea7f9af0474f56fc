"""Reads what a study left on disk for the report: config, environment, rows and training curves."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtl import config as config_lib
from jaxtl.errors import InputError
from jaxtl.host import sealed_json
from jaxtl.runner import provenance
from jaxtl.runner.rows import all_rows

Values = Mapping[str, Mapping[int, float]]
"""arm -> seed -> number."""


@dataclasses.dataclass(frozen=True)
class Results:
  """The contents of a working folder.

  Attributes:
    config: the content of `config.json`.
    env: the content of `env.json`; empty if it is missing.
    rows: rows of all finished cells, in the order of arms and seeds.
    curves: (arm, seed) -> the records of `metrics.jsonl`, including those of unfinished cells.
    finished: the cells that have rows.
  """

  config: Mapping[str, Any]
  env: Mapping[str, Any]
  rows: Sequence[Mapping[str, Any]]
  curves: Mapping[tuple[str, int], Sequence[Mapping[str, float]]]
  finished: frozenset[tuple[str, int]]

  @property
  def arms(self) -> tuple[str, ...]:
    return tuple(self.config["arms"])

  @property
  def seeds(self) -> tuple[int, ...]:
    return tuple(self.config.get("seeds") or (0,))

  @property
  def missing(self) -> tuple[tuple[str, int], ...]:
    """The cells without rows, in the order in which they would run."""
    cells = [(arm, seed) for arm in self.arms for seed in self.seeds]
    return tuple(cell for cell in cells if cell not in self.finished)

  @property
  def asked(self) -> frozenset[tuple[str, int]]:
    """The cells that some session was asked to finish; all cells if that is unknown."""
    try:
      first = self.env["asked"]
      sessions = [first, *(later.get("asked", first) for later in self.env.get("later", ()))]
      return frozenset((arm, seed) for one in sessions for arm in one["arms"] for seed in one["seeds"])
    except (AttributeError, KeyError, TypeError):  # written by an older version, or damaged
      return frozenset((arm, seed) for arm in self.arms for seed in self.seeds)

  @functools.cached_property
  def digest(self) -> str:
    """16 hexadecimal digits of the SHA-256 of the config, independent of the order of its keys."""
    text = json.dumps(self.config, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]

  @property
  def command(self) -> str:
    return " ".join(str(part) for part in self.env.get("command", ()))

  def values(self, measure: str, **where: Any) -> dict[str, dict[int, float]]:
    """Returns arm -> seed -> a number from the rows whose keys match `where`.

    Non-finite numbers are omitted.
    """
    found: dict[str, dict[int, float]] = {}
    for row in self.rows:
      value: Any = row.get(measure)
      if is_number(value) and all(row.get(key) == wanted for key, wanted in where.items()):
        found.setdefault(row["arm"], {})[row["seed"]] = float(value)
    return found

  def means(
    self, measure: str | Callable[[Mapping[str, Any]], float], **where: Any
  ) -> dict[str, dict[int, float]]:
    """Returns arm -> seed -> mean of a number, or of a function, over the rows whose keys match `where`."""
    found: dict[str, dict[int, list[float]]] = {}
    for row in self.rows:
      if all(row.get(key) == wanted for key, wanted in where.items()):
        value = row[measure] if isinstance(measure, str) else measure(row)
        found.setdefault(row["arm"], {}).setdefault(row["seed"], []).append(float(value))
    return {arm: {s: math.fsum(x) / len(x) for s, x in by_seed.items()} for arm, by_seed in found.items()}

  def arm_config(self, arm: str) -> Mapping[str, Any]:
    """Returns the config of an arm: the base with the arm's changes."""
    return config_lib.merge(self.config["base"], self.config["arms"][arm])


def load(workdir: Path) -> Results:
  """Reads a working folder, finished or not.

  Raises:
    InputError: no study ran in it.
  """
  rows = all_rows(workdir)
  config = provenance.read_json(workdir / "config.json")
  cells = [(arm, seed) for arm in config["arms"] for seed in config.get("seeds") or (0,)]
  folders = {cell: workdir / cell[0] / str(cell[1]) for cell in cells}
  curves = {cell: _records(folder / "metrics.jsonl") for cell, folder in folders.items()}
  return Results(
    config=config,
    env=provenance.read_json(workdir / "env.json") if (workdir / "env.json").is_file() else {},
    rows=rows,
    curves={cell: records for cell, records in curves.items() if records},
    finished=frozenset(cell for cell, folder in folders.items() if (folder / "rows.jsonl").exists()),
  )


def numbers(values: Values) -> Iterator[float]:
  """Yields all numbers, arm by arm and seed by seed."""
  for by_seed in values.values():
    yield from by_seed.values()


def is_number(value: Any) -> bool:
  """Returns whether a value is a finite number; True and False do not count as numbers."""
  return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _records(path: Path) -> list[dict[str, float]]:
  if not path.is_file():
    return []
  try:
    return sealed_json.read_records(path)
  except ValueError as error:
    raise InputError(f"{path} is damaged ({error}); restore it, or remove that line") from error
