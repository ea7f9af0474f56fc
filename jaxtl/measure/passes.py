"""Counts passes over images: shows the progress of a measurement, and stops it on request."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax

from jaxtl.errors import Restart
from jaxtl.train.runtime import Runtime

# Costs in image passes; the unit of the status line is a forward-backward pass.
FORWARD = 1 / 3
GRADIENT = 1.0
# The forward-backward pass, and a derivative of both its halves.
PRODUCT = 3.0
# A product of a single block: the network below it is only evaluated.
BLOCK = 1.5


class PassCounter:
  """Shows every batch of a measurement on the status line, and checks after each whether to stop.

  It stops only inside a `part`. Elsewhere, as in an observer of training, a stop would lose unsaved work.

  Args:
    runtime: the status line, and the source of requests to stop.

  Attributes:
    place: the current position in the measurement, for the status line.
  """

  def __init__(self, runtime: Runtime):
    self.place = ""
    self._runtime = runtime
    self._name: str | None = None
    self._done = self._images = self._busy = 0.0
    self._passes = 0
    self._began = 0.0

  @contextlib.contextmanager
  def part(self, name: str, *, work: float) -> Iterator[None]:
    """Runs a part of a measurement; parts do not nest.

    Args:
      name: for the status line.
      work: the work announced for it, in image passes. Work that was not needed is subtracted from the total.
    """
    self._name, self._began, self.place = name, time.monotonic(), ""
    self._done, self._images, self._busy, self._passes = 0.0, 0.0, 0.0, 0
    try:
      yield
      self._runtime.progress.skip(work - self._done)
    finally:
      self._name = None

  def watch(
    self, batches: Iterable[Mapping[str, Any]], *, cost: float, what: str = ""
  ) -> Iterator[Mapping[str, Any]]:
    """Yields the same batches and counts one pass.

    Args:
      batches: batches of this process; every process has the same number.
      cost: image passes per image.
      what: describes the pass on the status line.

    Raises:
      Restart: the run was asked to stop.
    """
    self._passes += 1
    last = time.monotonic()
    for batch in batches:
      yield batch
      last, before = time.monotonic(), last
      self._busy += last - before
      if self._name is not None:
        self._tell(len(batch["mask"]) * jax.process_count(), cost, what)

  def seconds(self) -> float:
    """Returns the seconds since the part began."""
    return time.monotonic() - self._began

  def _tell(self, images: int, cost: float, what: str) -> None:
    """Counts one batch, reports it, and stops if asked to."""
    self._images += images
    self._done += images * cost
    name = ", ".join(filter(None, (self._name, self.place, what)))
    rate = self._images / max(self._busy, 1e-9)
    self._runtime.progress.advance(images * cost, f"{name}, pass {self._passes}", images_per_second=rate)
    # A batch counts as a step here: cooperating processes ask equally often.
    if self._runtime.stop_due(self._passes):
      raise Restart(f"stopped during {name}; everything finished before it is kept")
