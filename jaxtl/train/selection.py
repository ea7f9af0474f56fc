"""The choice of a run's weights: those of its best evaluation instead of the last ones."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax

from jaxtl import config as config_lib
from jaxtl import optim
from jaxtl.checkpoints import checkpoint
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.checkpoints.checkpointer import Checkpointer
from jaxtl.errors import ConfigError, StorageError
from jaxtl.host.processes import from_first, whole
from jaxtl.types import TrainState

# Measures of which the least or the largest value is best.
LEAST, LARGEST = ("cross_entropy", "loss"), ("top1", "top5")
# Prefix of the metrics that describe the selected weights; the others describe the training.
SELECTED = "selected/"
# The most copies of the weights on the disk at a time: the best so far, the best until each of the newest
# two checkpoints, and one that is being written.
MOST_COPIES = 4


@dataclasses.dataclass(frozen=True)
class Select:
  """Uses the weights of a run's best evaluation, and may end the training early.

  The evaluation set must be held out from training. Selection on a test set makes its result optimistic.

  Attributes:
    evaluation: the evaluation set that decides.
    measure: the measure to compare. The first of equal evaluations wins.
    best: whether the "least" or the "largest" value is best; None infers it for loss, cross_entropy,
      top1 and top5.
    patience: consecutive evaluations without improvement after which the training ends; None trains to the
      end.
  """

  evaluation: str
  measure: str = "cross_entropy"
  best: Literal["least", "largest"] | None = None
  patience: int | None = None

  def __post_init__(self) -> None:
    known = self.best is not None or self.measure in (*LEAST, *LARGEST)
    config_lib.require(
      best=(self.best, known, f"'least' or 'largest' for the measure {self.measure!r}"),
      patience=(self.patience, self.patience is None or self.patience >= 1, "at least 1, or None"),
    )

  @property
  def sign(self) -> int:
    """The factor that makes larger values better."""
    best = self.best or ("least" if self.measure in LEAST else "largest")
    return -1 if best == "least" else 1

  @property
  def key(self) -> str:
    """The name of the measure in the metrics."""
    return f"eval/{self.evaluation}/{self.measure}"


def check(select: Select | None, evaluations: Iterable[str]) -> None:
  """Raises ConfigError if the run does not evaluate on the set that decides."""
  if select is not None and select.evaluation not in evaluations:
    names = ", ".join(evaluations) or "nothing"
    raise ConfigError(f"select.evaluation is {select.evaluation!r}; the run evaluates on {names}")


class BestWeights:
  """The best weights of a run so far, which survive an interruption.

  The best weights of each step from which the run can resume are kept until a later checkpoint replaces it:
  never more than `MOST_COPIES`, however often the run evaluates between two checkpoints. A run that resumes
  removes those of later steps: it reaches them again, with other weights after a rollback.

  Args:
    select: defines the best evaluation.
    folder: of the run; the weights lie in its `selected`. None keeps them in memory.
    start: the step from which the run resumes.
    records: the metrics records up to that step, oldest first. Those of process 0 count.
    about: the config of a checkpoint.
    note: reports events to the user.
  """

  def __init__(
    self,
    select: Select,
    folder: Path | None,
    start: int,
    records: Iterable[Mapping[str, float]],
    about: Mapping[str, Any],
    note: Callable[[str], None],
  ):
    self._select, self._about = select, about
    self._memory: TrainState | None = None
    self._folder = None if folder is None else folder / checkpoint.SELECTED
    self._saved = (
      None
      if self._folder is None
      else Checkpointer(self._folder, keep=10**9, note=note, restart_if_damaged=True, until=start)
    )
    # (step, value) of every evaluation, oldest first.
    found = [(int(one["step"]), one[select.key]) for one in records if select.key in one]
    self._values: list[tuple[int, float]] = [(step, value) for step, value in from_first(lambda: found)]
    # The newest two steps from which the run can resume: the last may still be incomplete.
    self._resumable = (max((step for step, _ in self._values), default=0),) * 2

  @property
  def step(self) -> int | None:
    """The step of the best evaluation; None before the first finite value."""
    return self._best(self._values)

  @property
  def has_ended(self) -> bool:
    """Returns whether the patience is exhausted."""
    patience, best = self._select.patience, self.step
    if patience is None or best is None:
      return False
    return sum(step > best for step, _ in self._values) >= patience

  def has_seen(self, step: int) -> bool:
    """Returns whether there was an evaluation at this step."""
    return any(step == seen for seen, _ in self._values)

  def observe(self, state: TrainState, values: Mapping[str, float]) -> None:
    """Records an evaluation, and keeps the weights if they are the best.

    Args:
      state: the weights that were evaluated; their statistics fit them.
      values: the evaluation.

    Raises:
      ConfigError: the evaluation lacks the measure.
      StorageError: the weights cannot be written.
    """
    if self._select.key not in values:
      prefix = f"eval/{self._select.evaluation}/"
      names = ", ".join(name.removeprefix(prefix) for name in values) or "nothing"
      raise ConfigError(f"select.measure is {self._select.measure!r}; the evaluation measures {names}")
    step = int(state.step)
    self._values.append((step, values[self._select.key]))
    if self.step != step:
      return
    # The average of the weights is what was evaluated; a copy, because the next step overwrites the state.
    best = TrainState(state.step, optim.averaged(state.opt_state, state.params), state.batch_stats, ())
    if self._saved is None:
      self._memory = jax.tree.map(lambda x: whole(x).copy(), best)
    else:
      self._saved.save(best, self._about, last=True)
      self._retain()

  def forget(self, resumable: int) -> None:
    """Removes weights that no run can need, once the checkpoint of step `resumable` is on disk."""
    self._resumable = self._resumable[1], resumable
    self._retain()

  def _retain(self) -> None:
    if self._saved is None:
      return
    needed = {self.step, *map(self._best_until, self._resumable)}
    self._saved.retain(step for step in needed if step is not None)

  def weights(self) -> Weights | None:
    """Returns the selected weights; None if no evaluation was finite.

    Raises:
      CheckpointError: they are damaged.
      StorageError: they are missing.
    """
    if self.step is None:
      return None
    if self._folder is None:
      assert self._memory is not None
      config = {**self._about, "step": self.step}
      return Weights(self._memory.params, self._memory.batch_stats, config, "memory")
    path = self._folder / str(self.step)
    if not path.is_dir():
      raise StorageError(
        f"the selected weights {path} are missing; restore them, or give another --workdir to start over"
      )
    return checkpoint.load(path)

  def close(self) -> None:
    if self._saved is not None:
      self._saved.close()

  def _best(self, values: Iterable[tuple[int, float]]) -> int | None:
    finite = [(step, value) for step, value in values if math.isfinite(value)]
    return max(finite, key=lambda one: self._select.sign * one[1])[0] if finite else None

  def _best_until(self, last: int) -> int | None:
    return self._best((step, value) for step, value in self._values if step <= last)
