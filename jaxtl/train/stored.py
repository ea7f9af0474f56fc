"""JSON that an earlier session left in a run's folder: somebody's disk may have damaged it since."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def parse(text: str, kind: type = dict) -> Any:
  """A JSON value of one kind.

  Raises:
    ValueError: it is none; says why in one line.
  """
  try:
    value = json.loads(text, parse_int=_integer)
  except RecursionError:
    raise ValueError("it is nested too deeply") from None
  if not isinstance(value, kind):
    raise ValueError(f"no JSON {'object' if kind is dict else 'list'}")
  return value


def _integer(text: str) -> int:
  """Refuses what no array and no float can hold."""
  if len(text.lstrip("-")) > 18:
    raise ValueError(f"an integer of {len(text)} digits")
  return int(text)


def read(path: Path, kind: type = dict) -> Any:
  """The same of a whole file. Raises ValueError, also where its bytes are no text."""
  return parse(path.read_text(encoding="utf-8"), kind)


def record(line: str) -> dict[str, float]:
  """A metrics record: numbers by name, among them the step. Raises ValueError for anything else."""
  value: dict[str, float] = parse(line)
  if type(value.get("step")) is not int or not all(isinstance(x, (int, float)) for x in value.values()):
    raise ValueError("no metrics record")
  return value
