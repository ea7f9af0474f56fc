"""Writes plain data as YAML: mappings, lists, texts, numbers and booleans.

No text can be read back as another type.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# A text of this form cannot be mistaken for a number, a date, a boolean, null or syntax.
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*(?:[:=][A-Za-z0-9_./-]+)*")
_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def dump(value: Mapping[str, Any]) -> str:
  """Formats one YAML document."""
  return "".join(line + "\n" for line in _lines(value))


def filled(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Drops fields that are None, 0 or empty."""
  return {name: value for name, value in fields.items() if value}


def _lines(value: Any) -> list[str]:
  if isinstance(value, Mapping) and value:
    return [line for key, item in value.items() for line in _entry(f"{scalar(key)}:", item)]
  if isinstance(value, (list, tuple)) and value:
    found = []
    for item in value:
      first, *rest = _item(item)
      found += [f"- {first}", *(f"  {line}" if line else "" for line in rest)]
    return found
  return [_inline(value)]


def _item(value: Any) -> list[str]:
  if isinstance(value, str) and _is_block(value):
    return ["|", *value[:-1].split("\n")]
  return _lines(value) if isinstance(value, Mapping) and value else [_inline(value)]


def _entry(key: str, value: Any) -> list[str]:
  if isinstance(value, str) and _is_block(value):
    return [f"{key} |", *(f"  {line}" if line else "" for line in value[:-1].split("\n"))]
  if isinstance(value, Mapping) and value:
    return [key, *(f"  {line}" for line in _lines(value))]
  if isinstance(value, (list, tuple)) and value:
    return [key, *_lines(value)]
  return [f"{key} {_inline(value)}"]


def _is_block(text: str) -> bool:
  """Returns whether a literal block preserves the text.

  It does for printable lines of which the last one ends in a line break.
  """
  return (
    text.endswith("\n")
    and not text.endswith("\n\n")
    and not text.startswith((" ", "\n"))
    and all(line.isprintable() for line in text[:-1].split("\n"))
  )


def _inline(value: Any) -> str:
  if isinstance(value, bool):
    return "true" if value else "false"
  if isinstance(value, int):
    return str(value)
  if isinstance(value, Mapping):
    return "{}"
  if isinstance(value, (list, tuple)):
    return "[]"
  return scalar(value)


def scalar(text: str) -> str:
  """Formats a text on one line: plain if that is safe, otherwise in double quotes."""
  if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
    return text
  return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
  if character in _ESCAPES:
    return _ESCAPES[character]
  if character.isprintable():
    return character
  return f"\\U{ord(character):08x}"
