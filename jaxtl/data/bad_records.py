"""A budget for unreadable images, and the record of those that a run has met."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxtl.errors import DataError


class BadRecords:
  """A counter of distinct unreadable images that stops the run beyond a budget.

  Args:
    budget: how many different unreadable images are allowed. 0 stops at the first.
    report: called with one line per new image, for example a logger's warning.
    quarantine: a file that receives one JSON object per new image, unless it lists the image already.
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
    """Records that an example cannot be read.

    Args:
      source: name of the source.
      index: identifies the example within the source.
      where: how messages name the example.
      reason: what is wrong with it.

    Raises:
      DataError: the number of unreadable images now exceeds the budget.
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
      images = "image" if len(self.found) == 1 else "images"
      raise DataError(
        f"{len(self.found)} unreadable {images}, {self.budget} allowed: {first}; repair or remove them, or "
        "allow more with max_bad_records (--max-bad-records N)"
      )

  def write_list(self) -> None:
    """Appends missing entries to the quarantine file; postpones this while its folder does not exist."""
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
    except OSError as error:  # the list only informs the user, so a failed write must not end the run
      if self._report is not None:
        self._report(f"{self._quarantine} cannot be written: {error.strerror}")
