"""JSON files with a digest, because a disk may damage what an earlier session left in a run's folder.

The digest prevents a flipped bit from being read as another number. A JSON object has it as its last key,
`digest`. In a list of objects, each object has the digest of the whole list. The files stay plain JSON and
JSON lines. A file without a digest was written by an older version or by hand, and is not checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

KEY = "digest"
# Begins every digest, so that a digest is recognised even if a bit of its key is flipped.
MARK = "sha256:"


def digest(value: Any) -> str:
  """Returns the digest of JSON data: 16 hexadecimal digits of SHA-256, independent of the order of keys."""
  plain = json.loads(json.dumps(value))  # numeric keys become text, which sorts differently
  return MARK + hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a JSON object with its digest."""
  return {**value, KEY: digest(value)}


def sealed_list(values: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Returns JSON objects, each with the digest of the whole list, which reveals a missing object.

  An empty list becomes one object that holds only the digest.
  """
  found = digest(list(values))
  return [{**value, KEY: found} for value in values] or [{KEY: found}]


def opened(value: dict[str, Any]) -> dict[str, Any]:
  """Returns a JSON object without its digest.

  Raises:
    ValueError: the digest does not match.
  """
  rest = _without_digest(value)
  _check([value], rest)
  return rest


def opened_list(values: Sequence[Any]) -> list[dict[str, Any]]:
  """Returns JSON objects without the digest of their list.

  Raises:
    ValueError: an item is not an object, or the digest does not match.
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
  """Compares `rest` with the digest in each of `values`; it is valid that none of them has a digest."""
  strays = any(_holds_digest(_without_digest(value)) for value in values)
  found = {str(value[KEY]) if KEY in value else None for value in values}
  if strays or (found and found != {None} and found != {digest(rest)}):
    raise ValueError("its contents do not match its digest")


def _holds_digest(item: Any) -> bool:
  """Returns whether a digest stands in a wrong place, at any depth.

  Lines that change places can move a digest into a nested part. One letter of the mark may differ, because a
  byte of the key may have changed places with a byte of the mark.
  """
  if isinstance(item, dict):
    return any(map(_holds_digest, item.values()))
  if isinstance(item, list):
    return any(map(_holds_digest, item))
  return isinstance(item, str) and sum(map(str.__eq__, item, MARK)) >= len(MARK) - 1


def parse(text: str, kind: type = dict) -> Any:
  """Parses a JSON value of the given kind.

  Raises:
    ValueError: the text is not such a value; says why in one line.
  """
  try:
    value = json.loads(text, parse_int=_integer)
  except RecursionError:
    raise ValueError("it is nested too deeply") from None
  if not isinstance(value, kind):
    raise ValueError(f"not a JSON {'object' if kind is dict else 'list'}")
  return value


def _integer(text: str) -> int:
  """Refuses an integer beyond 64 bits, which no array can hold."""
  digits = len(text.lstrip("-"))
  value = int(text) if digits <= 19 else 2**63  # int() itself refuses some thousand digits
  if not -(2**63) <= value < 2**63:
    raise ValueError(f"an integer of {digits} digits")
  return value


def read(path: Path, kind: type = dict) -> Any:
  """Reads a file that is one JSON object or a list of them, and checks its digest.

  Raises:
    ValueError: it is neither, it is not UTF-8, or the digest does not match.
  """
  value = parse(path.read_text(encoding="utf-8"), kind)
  return opened(value) if kind is dict else opened_list(value)


def read_lines(path: Path) -> list[dict[str, Any]]:
  """Reads a file with one JSON object per line, and checks the digest of the whole list.

  Raises:
    ValueError: for the reasons of `read`, or the file is empty.
  """
  lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
  if not lines:
    raise ValueError("it is empty")
  return opened_list([parse(line) for line in lines])


def text(value: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, indent: int | None = 1) -> str:
  """Returns the text of a file for `read`, made of one object or a list of them."""
  whole = sealed(value) if isinstance(value, Mapping) else sealed_list(value)
  return json.dumps(whole, indent=indent) + "\n"


def lines_text(values: Sequence[Mapping[str, Any]]) -> str:
  """Returns the text of a file for `read_lines`."""
  return "".join(json.dumps(value) + "\n" for value in sealed_list(values))


def line(value: Mapping[str, float]) -> str:
  """Returns a line for `record`, with its own digest."""
  return json.dumps(sealed(value)) + "\n"


def record(line: str) -> dict[str, float]:
  """Parses a metrics record: numbers by name, including the step. Raises ValueError for anything else."""
  value: dict[str, float] = opened(parse(line))
  if type(value.get("step")) is not int or not all(isinstance(x, (int, float)) for x in value.values()):
    raise ValueError("not a metrics record")
  return value


def read_records(path: Path) -> list[dict[str, float]]:
  """Reads the metrics records of a run, oldest first; skips a line that its writer has not finished.

  Each line has its own digest, so only the order of steps reveals duplicated or misplaced lines.

  Raises:
    ValueError: a line is damaged, duplicated, or not after the one above it; says which.
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
  """Returns whether a file exists and has no digest."""
  return path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace")
