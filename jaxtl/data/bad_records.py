"""How many unreadable images a run may meet, and which ones it met."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxtl.errors import DataError


class BadRecords:
  """Counts unreadable images, each once however often it is met, and stops the run beyond a budget.

  Args:
    budget: how many different unreadable images are allowed. 0 stops at the first.
    report: called with one line for each new one, for example a logger's warning.
    quarantine: a file that gets a JSON object for each new one, where it does not list it already.
  """

  def __init__(
    self,
    budget: int = 0,
    report: Callable[[str], Any] | None = None,
    *,
    quarantine: Path | None = None,
  ) -> None:
    self.budget = budget
    self.found: dict[tuple[str, int], str] = {}
    self._report = report
    self._quarantine = quarantine
    self._unlisted: list[str] = []

  def __len__(self) -> int:
    return len(self.found)

  def add(self, source: str, index: int, *, where: str, reason: str) -> None:
    """Note that an example cannot be read.

    Args:
      source: name of the source.
      index: identifies the example in it.
      where: how to name the example to the user.
      reason: what is wrong with it.

    Raises:
      DataError: there are now more than the budget.
    """
    if (source, index) in self.found:
      return
    line = f"{source}: {where} cannot be read: {reason}"
    self.found[source, index] = line
    if self._report is not None:
      self._report(line)
    entry = {"source": source, "index": index, "where": where, "reason": reason}
    self._unlisted.append(json.dumps(entry, ensure_ascii=False))
    self.write_list()
    if len(self.found) > self.budget:
      first = "; ".join(list(self.found.values())[:3])
      raise DataError(
        f"{len(self.found)} unreadable images, {self.budget} allowed: {first}; "
        "repair or remove them, or allow more with max_bad_records"
      )

  def write_list(self) -> None:
    """Lists in the quarantine file what it does not list yet; later, where its folder is not there yet."""
    if self._quarantine is None or not self._quarantine.parent.is_dir():
      return
    try:
      there = (
        self._quarantine.read_text(encoding="utf-8", errors="replace") if self._quarantine.exists() else ""
      )
      listed = set(there.splitlines())
      with self._quarantine.open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in self._unlisted if line not in listed)
      self._unlisted.clear()
    except OSError as error:  # the list is for the user: a run does not end for want of it
      if self._report is not None:
        self._report(f"{self._quarantine} cannot be written: {error.strerror}")
