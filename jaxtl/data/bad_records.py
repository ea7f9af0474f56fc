"""How many unreadable images a run may meet, and which ones it met."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtl.errors import DataError


class BadRecords:
  """Counts unreadable images, each once however often it is met, and stops the run beyond a budget.

  Args:
    budget: how many different unreadable images are allowed. 0 stops at the first.
    report: called with one line for each new one, for example a logger's warning.
  """

  def __init__(self, budget: int = 0, report: Callable[[str], Any] | None = None) -> None:
    self.budget = budget
    self.found: dict[tuple[str, int], str] = {}
    self._report = report

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
    if len(self.found) > self.budget:
      first = "; ".join(list(self.found.values())[:3])
      raise DataError(
        f"{len(self.found)} unreadable images, {self.budget} allowed: {first}; "
        "repair or remove them, or allow more with max_bad_records"
      )
