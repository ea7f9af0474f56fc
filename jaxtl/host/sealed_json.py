"""JSON that an earlier session left in a run's folder: somebody's disk may have damaged it since.

What is read again carries a digest, so that one flipped bit is not read as another number. A JSON object has
it as its last key, `digest`; a list of objects has the digest of the whole list in each of them. The files
stay plain JSON and JSON lines. What has no digest was written by an older version or by hand, and is not
checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

KEY = "digest"
# Begins every digest, so that it is recognised even if a bit of its key is flipped.
MARK = "sha256:"


def digest(value: Any) -> str:
  """The digest of JSON data: its first 16 hexadecimal digits of SHA-256, whatever the order of its keys."""
  plain = json.loads(json.dumps(value))  # keys that are numbers become text, which sorts in another way
  return MARK + hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
  """A JSON object with its digest."""
  return {**value, KEY: digest(value)}


def sealed_list(values: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """JSON objects, each with the digest of all, which shows that one is missing; of none, a digest alone."""
  found = digest(list(values))
  return [{**value, KEY: found} for value in values] or [{KEY: found}]


def opened(value: dict[str, Any]) -> dict[str, Any]:
  """A JSON object without its digest.

  Raises:
    ValueError: the digest does not fit.
  """
  rest = _without_digest(value)
  _check([value], rest)
  return rest


def opened_list(values: Sequence[Any]) -> list[dict[str, Any]]:
  """JSON objects without the digest of all.

  Raises:
    ValueError: one is not an object, or the digest does not fit.
  """
  if not all(isinstance(value, dict) for value in values):
    raise ValueError("not a JSON object")
  rest = [_without_digest(value) for value in values]
  rest = [] if rest == [{}] else rest
  _check(values, rest)
  return rest


def _without_digest(value: Mapping[str, Any]) -> dict[str, Any]:
  return {name: item for name, item in value.items() if name != KEY}


def _check(values: Sequence[Mapping[str, Any]], rest: Any) -> None:
  """Compares `rest` with the digest in each of `values`; none of them may have one."""
  strays = any(_holds_digest(_without_digest(value)) for value in values)
  found = {str(value[KEY]) if KEY in value else None for value in values}
  if strays or (found and found != {None} and found != {digest(rest)}):
    raise ValueError("its contents do not match its digest")


def _holds_digest(item: Any) -> bool:
  """Whether a digest stands where none belongs, at any depth: lines that change places move it into a part.

  One letter of its mark may differ, as where a byte of the key has changed places with one of the mark.
  """
  if isinstance(item, dict):
    return any(map(_holds_digest, item.values()))
  if isinstance(item, list):
    return any(map(_holds_digest, item))
  return isinstance(item, str) and sum(map(str.__eq__, item, MARK)) >= len(MARK) - 1


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
    raise ValueError(f"not a JSON {'object' if kind is dict else 'list'}")
  return value


def _integer(text: str) -> int:
  """Refuses an integer that no array can hold: beyond 64 bits."""
  digits = len(text.lstrip("-"))
  value = int(text) if digits <= 19 else 2**63  # int() itself refuses some thousand digits
  if not -(2**63) <= value < 2**63:
    raise ValueError(f"an integer of {digits} digits")
  return value


def read(path: Path, kind: type = dict) -> Any:
  """Reads a file that is one JSON object or a list of them, and checks its digest.

  Raises:
    ValueError: it is neither, it is not UTF-8, or the digest does not fit.
  """
  value = parse(path.read_text(encoding="utf-8"), kind)
  return opened(value) if kind is dict else opened_list(value)


def read_lines(path: Path) -> list[dict[str, Any]]:
  """Reads a file with one JSON object a line, and checks the digest of all.

  Raises:
    ValueError: as for `read`, or there is no line.
  """
  lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
  if not lines:
    raise ValueError("it is empty")
  return opened_list([parse(line) for line in lines])


def text(value: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, indent: int | None = 1) -> str:
  """A file for `read`, of one object or a list of them."""
  whole = sealed(value) if isinstance(value, Mapping) else sealed_list(value)
  return json.dumps(whole, indent=indent) + "\n"


def lines_text(values: Sequence[Mapping[str, Any]]) -> str:
  """A file for `read_lines`."""
  return "".join(json.dumps(value) + "\n" for value in sealed_list(values))


def line(value: Mapping[str, float]) -> str:
  """A line for `record`, with its own digest."""
  return json.dumps(sealed(value)) + "\n"


def record(line: str) -> dict[str, float]:
  """A metrics record: numbers by name, among them the step. Raises ValueError for anything else."""
  value: dict[str, float] = opened(parse(line))
  if type(value.get("step")) is not int or not all(isinstance(x, (int, float)) for x in value.values()):
    raise ValueError("not a metrics record")
  return value


def read_records(path: Path) -> list[dict[str, float]]:
  """Reads the metrics records of a run, oldest first; a line that its writer has not finished is left out.

  Each line has a digest of its own, so that their order has to tell of lines that are doubled or misplaced.

  Raises:
    ValueError: a line is damaged, doubled, or not after the one above it; says which.
  """
  found: list[dict[str, float]] = []
  try:
    *lines, unfinished = path.read_text(encoding="utf-8").split("\n")
    for line in lines:
      if line.strip():
        latest = record(line)
        if found and (latest["step"] < found[-1]["step"] or latest == found[-1]):
          raise ValueError("it repeats or precedes the record above it")
        found.append(latest)
    if "}" in unfinished[:-1]:
      raise ValueError("there is text after its end")
  except ValueError as error:
    raise ValueError(f"record {len(found) + 1}: {error}") from error
  return found


def lacks_digest(path: Path) -> bool:
  """Whether a file exists and has no digest."""
  return path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace")
