"""The page of exit codes: the table of RELIABILITY.md, and the errors that have them."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from docs.generate.docstrings import summary
from jaxtl import errors


def pages(repository: Path) -> dict[str, str]:
  """Returns path -> text.

  Raises:
    ValueError: RELIABILITY.md has no such table, or the table lacks a code of an error.
  """
  text = (repository / "RELIABILITY.md").read_text(encoding="utf-8")
  table = re.search(r"^\| exit code \|.*?(?=^$)", text, re.M | re.S)
  if table is None:
    raise ValueError("RELIABILITY.md has no table that starts with '| exit code |'")
  classes = [each for _, each in inspect.getmembers(errors, inspect.isclass) if hasattr(each, "code")]
  if missing := {each.code for each in classes} - set(map(int, re.findall(r"^\| (\d+) \|", table[0], re.M))):
    raise ValueError(f"the table of exit codes in RELIABILITY.md lacks {sorted(missing)}")
  rows = [
    f"| `jaxtl.errors.{each.__name__}` | {each.code} | {summary(each)} |"
    for each in sorted(classes, key=lambda each: (each.code, each.__name__))
  ]
  return {
    "reference/exit_codes.md": f"""# Exit codes

Every command ends with one of these codes. An error is one line on standard error: what was given, what was
expected, and what to write instead. [What a run survives](../reliability.md) describes the faults behind
the codes.

{table[0]}
## Errors in Python

A function raises an error of the class that has the exit code.

| error | exit code | meaning |
|---|---|---|
{chr(10).join(rows)}
"""
  }
