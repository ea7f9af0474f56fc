"""The loop around the step: what happens when, and nothing of what is learned."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxtl.errors import RunError
from jaxtl.train.sharding import put_batch
from jaxtl.train.step import Step, TrainState
from jaxtl.train.writer import MetricsWriter, Progress
from jaxtl.types import Array, Metrics

Observer = Callable[[TrainState], Mapping[str, float]]


def fit(
  state: TrainState,
  train_step: Step,
  batches: Iterator[Mapping[str, np.ndarray]],
  *,
  num_steps: int,
  key: Array,
  mesh: Any,
  writer: MetricsWriter,
  progress: Progress,
  work_per_image: float = 1.0,
  log_every: int = 50,
  observers: Mapping[str, tuple[int | None, Observer]] | None = None,
  save: Callable[[TrainState], None] | None = None,
  checkpoint_every: int | None = None,
) -> TrainState:
  """Runs `train_step` from `state.step` to `num_steps`.

  Args:
    state: where to start; it is donated.
    batches: the stream of batches, already at position `state.step`.
    key: the run's noise key.
    work_per_image: image passes that one image costs, for the time left: 2 under SAM.
    log_every: period of the metrics records, in steps.
    observers: name -> (period in steps, state -> scalars); None is only after the last step, where every
      observer runs. They look at the state and cannot change it.
    save: writes a checkpoint; called every `checkpoint_every` steps and after the last.

  Raises:
    RunError: the loss is not finite; the message names the step.
  """
  observers = observers or {}
  start = int(state.step)
  clock = _Clock()
  behind: tuple[int, Metrics] | None = None
  for number in range(start + 1, num_steps + 1):
    with clock.waiting():
      batch = next(batches)
    images = len(batch["image"])
    state, metrics = train_step(state, put_batch(batch, mesh), key)
    if behind is not None:  # one step late, so that the device never waits for the host
      _check_finite(*behind)
    behind = (number, metrics)
    clock.count(images)
    last = number == num_steps
    if number % log_every == 0 or last:
      _check_finite(number, metrics)
      record = {f"train/{name}": float(value) for name, value in metrics.items()}
      writer.write(number, record | clock.record())
      clock.restart()
    progress.advance(
      images * work_per_image,
      f"step {number}/{num_steps}",
      images_per_second=clock.images_per_second,
      waiting=clock.share_waiting,
    )
    due = [observe for every, observe in observers.values() if last or (every and number % every == 0)]
    saving = save is not None and (last or (checkpoint_every and number % checkpoint_every == 0))
    if due or saving:
      _check_finite(number, metrics)
    with clock.paused():
      for observe in due:
        writer.write(number, observe(state))
      if save is not None and saving:
        save(state)
  return state


def _check_finite(step: int, metrics: Metrics) -> None:
  """Of loss and gradient: either would be written into the weights, and into the checkpoint."""
  for name, what in (("loss", "loss"), ("grad_norm", "gradient's norm")):
    value = float(metrics.get(name, 0.0))
    if not math.isfinite(value):
      advice = "lower the learning rate or look at that batch"
      raise RunError(f"the {what} is {value} at step {step}; {advice}", code=4)


class _Clock:
  """Wall time of training alone: what was spent waiting for data, and what observers took off."""

  def __init__(self) -> None:
    self.images_per_second = 0.0
    self.share_waiting = 0.0
    self._windows = 0
    self.restart()

  def restart(self) -> None:
    self._start = time.monotonic()
    self._images = 0
    self._waited = 0.0

  def count(self, images: int) -> None:
    self._images += images
    elapsed = max(time.monotonic() - self._start, 1e-9)
    self.images_per_second = self._images / elapsed
    self.share_waiting = self._waited / elapsed

  def record(self) -> dict[str, float]:
    """The rates of this window; the first window holds the compilation and has none."""
    self._windows += 1
    if self._windows == 1:
      return {}
    elapsed = max(time.monotonic() - self._start, 1e-9)
    return {"train/images_per_second": self._images / elapsed, "train/data_wait": self._waited / elapsed}

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Counts the time inside as spent waiting for data."""
    entered = time.monotonic()
    yield
    self._waited += time.monotonic() - entered

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Takes the time inside off the window."""
    entered = time.monotonic()
    yield
    self._start += time.monotonic() - entered
