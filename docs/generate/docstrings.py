"""Docstrings: as reStructuredText for Sphinx, and the descriptions of a dataclass's fields."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence

_CODE = re.compile(r"(``.+?``|`[^`]+`)")
_MARKUP = re.compile(r"[*|\\]|(?<=\w)_(?!\w)")
_ITEM = re.compile(r"(\s*)([-*]|\d+\.) ")
_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):$")
_FIELDS = re.compile(r"([\w, ]+): (.*)")


def escaped(text: str) -> str:
  """Escapes what reStructuredText would read as markup: `|x|`, `*` and `name_`; `code` stays code."""
  parts = _CODE.split(text)
  return "".join(part if number % 2 else _MARKUP.sub(r"\\\g<0>", part) for number, part in enumerate(parts))


def prepared(lines: Sequence[str]) -> list[str]:
  """Returns the lines of a docstring, ready for Napoleon.

  What is written as plain text is not read as markup. An indented block above the first section, such as a
  formula or a table, is shown as it stands. A list that follows a sentence gets the empty line that it needs.
  """
  found: list[str] = []
  in_section = as_it_stands = False
  for line in _joined(lines):
    in_section = in_section or bool(_SECTION.match(line))
    as_it_stands = _stands(line, found, as_it_stands, in_section)
    if as_it_stands:
      if line.startswith(" ") and not _is_open(found):
        found += ["::", ""]
      found.append(line)
      continue
    item = _ITEM.match(line)
    if item and found and found[-1].strip() and not _continues(found[-1], item.group(1)):
      found.append("")
    end = item.end() if item else 0
    found.append(line[:end] + escaped(line[end:]))
  return found


def _stands(line: str, before: Sequence[str], stood: bool, in_section: bool) -> bool:
  """Whether a line is part of an example or of an indented block above the first section."""
  if line.lstrip().startswith(">>>"):
    return True
  if stood and before[-1].lstrip().startswith((">>>", "...")):
    return bool(line.strip())  # what an example prints
  if in_section or not line.strip():
    return stood and not in_section
  if stood:
    return line.startswith(" ") or (bool(before[-1].strip()) and not before[-1].startswith(" "))
  after_paragraph = not before or not before[-1].strip()
  return line.startswith(" ") and after_paragraph and not _ITEM.match(line) and not _in_list(before)


def _is_open(before: Sequence[str]) -> bool:
  """Whether the lines end inside a block that is shown as it stands."""
  last = next((line for line in reversed(before) if line.strip()), "")
  return last == "::" or last.startswith(" ")


def _in_list(before: Sequence[str]) -> bool:
  last = next((line for line in reversed(before) if line.strip() and not line.startswith(" ")), "")
  return bool(_ITEM.match(last))


def _continues(previous: str, indent: str) -> bool:
  """Whether the line before an item belongs to the same list: it is an item, or indented more."""
  return bool(_ITEM.match(previous)) or len(previous) - len(previous.lstrip()) > len(indent)


def _joined(lines: Sequence[str]) -> list[str]:
  """Joins lines that break inside `code`: one line alone would not show that it is code."""
  found: list[str] = []
  for line in lines:
    if found and found[-1].count("`") % 2 and line.strip():
      found[-1] = f"{found[-1]} {line.strip()}"
    else:
      found.append(line)
  return found


def summary(of: object) -> str:
  """Returns the first paragraph of a docstring on one line; empty if there is none."""
  return " ".join((inspect.getdoc(of) or "").partition("\n\n")[0].split())


def field_descriptions(cls: type) -> dict[str, str]:
  """Returns name -> description of the fields in the Attributes section of a class, and of its bases."""
  found: dict[str, str] = {}
  for base in reversed(cls.__mro__):
    found |= _attributes(inspect.cleandoc(base.__doc__ or "") if base is not object else "")
  return found


def _attributes(text: str) -> dict[str, str]:
  """Reads lines `name, name: text` below `Attributes:`, with more text below them, indented more."""
  lines = text.splitlines()
  if "Attributes:" not in lines:
    return {}
  section: list[str] = []
  for line in lines[lines.index("Attributes:") + 1 :]:
    if line.strip() and not line.startswith(" "):
      break
    section.append(line)
  found: dict[str, str] = {}
  names: list[str] = []
  depth = min((len(line) - len(line.lstrip()) for line in section if line.strip()), default=0)
  for line in filter(str.strip, section):
    head = _FIELDS.match(line.strip()) if len(line) - len(line.lstrip()) == depth else None
    if head:
      names = [name.strip() for name in head.group(1).split(",")]
    for name in names:
      found[name] = f"{found.get(name, '')} {head.group(2) if head else line.strip()}".strip()
  return found
