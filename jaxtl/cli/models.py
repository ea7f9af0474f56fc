"""`jaxtl models`: lists the architectures with their sizes; reads a stored table, and imports no JAX."""

from __future__ import annotations

import argparse
import fnmatch
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from jaxtl.cli.output import show
from jaxtl.errors import InputError
from jaxtl.host.files import check_new_file, write_atomically
from jaxtl.text_table import aligned_lines

_HEADER = ("model", "parameters", "MACs", "input", "blocks", "layouts")


def models(options: argparse.Namespace) -> None:
  """Runs `jaxtl models`: prints the architectures that match a pattern, and with --json writes them."""
  rows = matching(read_catalogue(), options.pattern)
  if not rows:
    raise InputError(
      f"no architecture matches {options.pattern!r}; write a part of a name or a pattern like 'resnet*', or "
      "`jaxtl models` for all"
    )
  if options.json:
    check_new_file(options.json)
  show(table(rows))
  if options.json:
    write_atomically(options.json, json.dumps(rows, indent=1) + "\n")
    show(f"wrote {options.json}")


def read_catalogue() -> list[dict[str, Any]]:
  """Reads the rows of `jaxtl.pretrained.catalogue`."""
  # By its path: importing the package would import JAX.
  file = resources.files("jaxtl").joinpath("pretrained", "catalogue.json")
  rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
  return rows


def matching(rows: Sequence[dict[str, Any]], pattern: str | None) -> list[dict[str, Any]]:
  """Returns the rows whose name matches a shell pattern, or contains it if it has no wildcards."""
  if pattern is None:
    return list(rows)
  wanted = pattern.lower() if any(sign in pattern for sign in "*?[") else f"*{pattern.lower()}*"
  return [row for row in rows if fnmatch.fnmatchcase(row["name"], wanted)]


def table(rows: Sequence[dict[str, Any]]) -> str:
  """Formats one aligned line per architecture."""
  return "\n".join(aligned_lines([_HEADER, *map(_cells, rows)], right=range(1, 5)))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
  return (
    row["name"],
    f"{row['parameters'] / 1e6:.2f} M",
    f"{row['multiply_accumulates'] / 1e9:.2f} G",
    _input(row),
    str(len(row["blocks"])),
    ", ".join(row["layouts"]),
  )


def _input(row: dict[str, Any]) -> str:
  """Formats the usual size of the input, and the other sizes that weights of some layouts expect."""
  side = row["input"][0]
  if len(row["input"]) == 1:
    return f"{side} tokens"
  others = sorted(set(row["image_sizes"].values()) - {side})
  return ", ".join(map(str, [side, *others])) + " px"
