"""Measurements that pass over images again and again: how far they are, and whether to stop between two."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax

from jaxtl.errors import Restart
from jaxtl.train.runtime import Runtime

# Passes over the images of a forward-backward pass, in which the status line counts.
FORWARD = 1 / 3
GRADIENT = 1.0
# The forward-backward pass, and a derivative of both of its halves.
PRODUCT = 3.0
# A product by one block alone: below it the network is only evaluated.
BLOCK = 1.5


class PassCounter:
  """Shows every batch of a measurement on the status line, and asks after each whether to stop.

  Only inside a `part`: elsewhere, as in an observer of training, a stop would lose what is not saved.

  Args:
    runtime: the status line, and who may want to stop.

  Attributes:
    place: where the measurement is, for the status line.
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
    """A part of a measurement; parts do not nest.

    Args:
      name: for the status line.
      work: what was announced for it, in image passes. What it does not take is taken off the total.
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
    """The same batches: one pass.

    Args:
      batches: of this process, as many on every process.
      cost: image passes of each image.
      what: it is, for the status line.

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
        self._tell(len(batch["label"]) * jax.process_count(), cost, what)

  def seconds(self) -> float:
    """Since the part began."""
    return time.monotonic() - self._began

  def _tell(self, images: int, cost: float, what: str) -> None:
    """One batch later."""
    self._images += images
    self._done += images * cost
    name = ", ".join(filter(None, (self._name, self.place, what)))
    rate = self._images / max(self._busy, 1e-9)
    self._runtime.progress.advance(images * cost, f"{name}, pass {self._passes}", images_per_second=rate)
    # A batch is a step of this: the processes that work together ask equally often.
    if self._runtime.stop_due(self._passes):
      raise Restart(f"stopped during {name}; everything finished before it is kept")
