"""A linear classifier on the frozen features of a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxtl import config as config_lib
from jaxtl import optim


@dataclasses.dataclass(frozen=True)
class LinearProbe:
  """Logistic regression on cached pooled features; the penalty is chosen on a held-out part.

  Attributes:
    l2: candidate penalties.
    held_out: share of the training examples on which the choice is made. With fewer than 3 examples per
      class, each example is left out once instead. With one example per class no choice is possible, and the
      middle penalty is used. The rows record the case (`l2_chosen_by`).
    max_iters: maximum number of L-BFGS steps.
  """

  l2: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
  held_out: float = 0.2
  max_iters: int = 300

  def __post_init__(self) -> None:
    config_lib.require(
      l2=(self.l2, len(self.l2) > 0 and min(self.l2) >= 0, "penalties of 0 or more"),
      held_out=(self.held_out, 0 < self.held_out < 1, "a share between 0 and 1"),
      max_iters=(self.max_iters, self.max_iters >= 1, "at least 1"),
    )

  def choose(
    self,
    features: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    seed: int,
    beat: Callable[[], None],
  ) -> optim.PenaltyChoice:
    """Fits the probe to features [N, D] and labels [N]; see `optim.choose_probe`."""
    return optim.choose_probe(
      features,
      labels,
      num_classes=num_classes,
      l2_grid=self.l2,
      held_out=self.held_out,
      seed=seed,
      max_iters=self.max_iters,
      beat=beat,
    )
