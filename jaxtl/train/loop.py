"""The loop around the step: it decides when things happen and does not change what is learned."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax

from jaxtl.errors import NonFiniteError, Restart
from jaxtl.host.metrics_log import MetricsWriter
from jaxtl.host.progress import Progress
from jaxtl.train.sharding import put_batch
from jaxtl.train.step import Step
from jaxtl.types import Array, Metrics, TrainState

Observer = Callable[[TrainState], Mapping[str, float]]
# Consecutive skipped steps after which a run gives up, since it no longer learns.
MOST_SKIPPED = 20
# The number of losses in the median that defines a spike, and how many are needed before it is used.
RECENT, ENOUGH = 100, 20
# The metrics that describe the machine, and not what was learned.
RATES = ("train/images_per_second", "train/data_wait")


class Save(Protocol):
  """A function that writes a checkpoint, in the background unless it is the `last` of the run."""

  def __call__(self, state: TrainState, *, last: bool) -> None: ...


@dataclasses.dataclass(frozen=True)
class Periods:
  """The periods of a run, in steps.

  Attributes:
    log: steps between metrics records.
    checkpoint: steps between checkpoints; None means only after the last step.
  """

  log: int = 50
  checkpoint: int | None = None


def fit(
  state: TrainState,
  train_step: Step,
  batches: Iterator[Mapping[str, Any]],
  *,
  num_steps: int,
  key: Array,
  mesh: Any,
  writer: MetricsWriter,
  progress: Progress,
  work_per_image: float = 1.0,
  periods: Periods = Periods(),
  observers: Mapping[str, tuple[int | None, Observer]] | None = None,
  save: Save | None = None,
  spike_factor: float | None = None,
  recent: collections.deque[float] | None = None,
  stop_due: Callable[[int], bool] = lambda step: False,
  beat: Callable[[], None] = lambda: None,
  has_ended: Callable[[], bool] = lambda: False,
) -> TrainState:
  """Runs `train_step` from `state.step` to `num_steps`, or until `has_ended`.

  Args:
    state: the state to start from; it is donated.
    batches: the stream of batches, already at the position of `state.step`.
    key: the run's noise key.
    work_per_image: image passes that one image costs, to estimate the time left: 2 under SAM.
    observers: name -> (period in steps, state -> scalars); None means only after the last step, when every
      observer runs. They look at the state and cannot change it; if one fails, the state is saved first.
    save: writes a checkpoint; called every `periods.checkpoint` steps, after the last step and before a stop.
    spike_factor: as in `Experiment`.
    recent: the losses that a spike is compared with, at most `RECENT`: initially those before the start. It
      is kept up to date, and is complete whenever `save` is called.
    stop_due: whether to save and stop after this step.
    beat: called whenever there is progress.
    has_ended: whether training ends now, although steps are left; asked after observers ran.

  Raises:
    NonFiniteError: the loss or the gradient is not finite, or the loss has spiked; it holds the step.
    Restart: `stop_due` asked for a stop. The state has been saved if `save` was given.
  """
  health = _Health(spike_factor, progress.note, recent)
  told = _StepReporter(writer, progress, periods.log, num_steps, work_per_image, health)
  for number in range(int(state.step) + 1, num_steps + 1):
    with told.clock.waiting():
      batch = next(batches)
    beat()
    state, metrics = train_step(state, put_batch(batch, mesh), key)
    told.step(number, metrics, len(batch["mask"]))
    beat()
    last, stopping = number == num_steps, stop_due(number)
    due = _due(observers or {}, number, last=last)
    saving = last or stopping or (periods.checkpoint and number % periods.checkpoint == 0)
    if due or saving:
      with told.resting():
        _observe(due, number, state, writer=writer, save=save, beat=beat)
        last = last or has_ended()
        if save is not None and (saving or last):
          save(state, last=last or stopping)
          beat()
    if last:
      break
    if stopping:
      raise _stopped(number, saved=save is not None)
  return state


def _due(observers: Mapping[str, tuple[int | None, Observer]], number: int, *, last: bool) -> list[Observer]:
  """Returns the observers that run after this step."""
  return [observe for every, observe in observers.values() if last or (every and number % every == 0)]


def _stopped(number: int, *, saved: bool) -> Restart:
  kept = "which is saved; the same command resumes from there" if saved else "of a part that is not saved"
  return Restart(f"stopped after step {number}, {kept}")


def _observe(
  due: list[Observer],
  number: int,
  state: TrainState,
  *,
  writer: MetricsWriter,
  save: Save | None,
  beat: Callable[[], None],
) -> None:
  """Writes what the observers see; if one fails, the state is saved before the failure ends the run."""
  for observe in due:
    try:
      values = observe(state)
    except Exception:
      # A save needs all processes, and the others may not have failed.
      if save is not None and jax.process_count() == 1:
        save(state, last=True)
      raise
    if values:
      writer.write(number, values)
    beat()


class _StepReporter:
  """The reporter of steps: to the health check and status line always, to the metrics once per period."""

  def __init__(
    self,
    writer: MetricsWriter,
    progress: Progress,
    every: int,
    num_steps: int,
    work_per_image: float,
    health: _Health,
  ):
    self.clock, self.health = _Clock(), health
    self._writer, self._progress = writer, progress
    self._every, self._num_steps, self._work = every, num_steps, work_per_image

  @contextlib.contextmanager
  def resting(self) -> Iterator[None]:
    """Checks the health before its body runs, and does not count the time of the body as training."""
    self.health.settle()
    with self.clock.paused():
      yield

  def step(self, number: int, metrics: Metrics, images: int) -> None:
    clock = self.clock
    self.health.look(number, metrics)
    clock.count(images)
    if number % self._every == 0 or number == self._num_steps:
      self.health.settle()
      record = {f"train/{name}": float(value) for name, value in metrics.items()}
      self._writer.write(number, record | clock.record())
      clock.restart()
    self._progress.advance(
      images * self._work,
      f"step {number}/{self._num_steps}",
      images_per_second=clock.images_per_second,
      waiting=clock.share_waiting,
    )


class _Health:
  """A check of loss and gradient, one step late, so that the device never waits for the host.

  A value that is not finite would be written into the weights and the checkpoint, so `settle` also checks the
  newest step.
  """

  def __init__(
    self,
    spike_factor: float | None,
    note: Callable[[str], None],
    recent: collections.deque[float] | None = None,
  ):
    self._spike_factor = spike_factor
    self._note = note
    self._unseen: tuple[int, Metrics] | None = None
    self._recent = collections.deque[float](maxlen=RECENT) if recent is None else recent
    self._skipped = 0

  def look(self, step: int, metrics: Metrics) -> None:
    self.settle()
    self._unseen = step, metrics

  def settle(self) -> None:
    if self._unseen is None:
      return
    (step, metrics), self._unseen = self._unseen, None
    if float(metrics.get("skipped", 0.0)):
      self._skip(step)
      return
    self._skipped = 0
    for name, what in (("loss", "loss"), ("grad_norm", "gradient's norm")):
      value = float(metrics.get(name, 0.0))
      if not math.isfinite(value):
        advice = "lower the learning rate or look at that batch"
        raise NonFiniteError(f"the {what} is {value} at step {step}; {advice}", step=step)
    if self._spike_factor is not None:
      self._compare(step, float(metrics["loss"]), self._spike_factor)

  def _skip(self, step: int) -> None:
    self._skipped += 1
    self._note(f"step {step} is skipped: its loss or gradient is not finite")
    if self._skipped >= MOST_SKIPPED:
      raise NonFiniteError(
        f"{self._skipped} steps in a row are not finite, the last of them {step}; lower the learning rate",
        step=step,
      )

  def _compare(self, step: int, loss: float, factor: float) -> None:
    usual = statistics.median(self._recent) if len(self._recent) >= ENOUGH else math.inf
    if loss > factor * usual:
      raise NonFiniteError(
        f"the loss is {loss:.4g} at step {step}, above {factor:g} times its median {usual:.4g}", step=step
      )
    self._recent.append(loss)


class _Clock:
  """The wall time of training alone: it counts the wait for data and leaves out the time of observers."""

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
    """Returns the rates of this window; the first window includes the compilation and has none."""
    self._windows += 1
    if self._windows == 1:
      return {}
    elapsed = max(time.monotonic() - self._start, 1e-9)
    return dict(zip(RATES, (self._images / elapsed, self._waited / elapsed), strict=True))

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Counts the time inside as spent waiting for data."""
    entered = time.monotonic()
    yield
    self._waited += time.monotonic() - entered

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Excludes the time inside from the window."""
    entered = time.monotonic()
    yield
    self._start += time.monotonic() - entered
