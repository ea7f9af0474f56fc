"""The objective for the coefficient of a patch: the losses of old and new tasks on one scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from jaxtl.errors import ConfigError, InputError, NonFiniteError

Normalisation = Literal["initial", "endpoints", "log_classes", "none"]

# A loss that changes by less than this part of its first value has no range to be divided by.
SMALLEST_RANGE = 1e-3


class PaintObjective:
  """alpha -> w_s (mean of N(L) over the supported tasks) + w_p (mean of N(L) over the patched ones).

  It uses losses, which have a slope, where Ilharco et al., "Patching open-vocabulary models by interpolating
  weights", 2022, arXiv 2208.05592, use accuracies. It takes a mean within each group, so that more patched
  tasks do not outvote the supported ones. N puts losses on one scale:

    initial      L / L(0). The factor of a loss does not matter, and a sum of convex losses stays convex.
    endpoints    supported: (L - L(0)) / (L(1) - L(0)); patched: (L - L(1)) / (L(0) - L(1)). Neither factor
                 nor offset matters. If a supported loss does not rise or a patched one does not fall by 1e-3
                 of L(0), this scale is unusable and all tasks take `initial`; `normalisation` says so.
    log_classes  L / ln(number of classes): needs no reference point.
    none         L.

  Losses are cached: an alpha, rounded to 12 digits, is evaluated once.

  Attributes:
    losses: {alpha: {task: loss}} of all evaluated alphas.
    normalisation: the one in use, after the first call.
  """

  def __init__(
    self,
    evaluate: Callable[[float], Mapping[str, float]],
    *,
    supported: Sequence[str],
    patching: Sequence[str],
    normalise: Normalisation = "initial",
    num_classes: Mapping[str, int] | None = None,
    weights: tuple[float, float] = (1.0, 1.0),
  ):
    """Checks the tasks.

    Args:
      evaluate: alpha -> {task: mean loss}, deterministic; `losses_along` makes one.
      supported: names of the tasks that must not get worse.
      patching: names of the tasks that are to get better.
      normalise: N.
      num_classes: {task: its number of classes}, which `log_classes` needs.
      weights: w_s and w_p.

    Raises:
      ConfigError: a group has no task, a task comes twice, or a keyword is out of its range.
      At a call, InputError: a task has no loss, or one that cannot be divided by; NonFiniteError: a loss is
      not finite.
    """
    self._evaluate, self._weights = evaluate, weights
    self._supported, self._patching = tuple(supported), tuple(patching)
    self._num_classes = dict(num_classes or {})
    self.losses: dict[float, dict[str, float]] = {}
    self.normalisation: Normalisation = normalise
    self._ready = False
    self._check(normalise)

  @property
  def num_evaluations(self) -> int:
    """The number of evaluated alphas, including those that the normalisation needs."""
    return len(self.losses)

  def __call__(self, alpha: float) -> float:
    """Returns the objective; a repeated alpha costs nothing."""
    return self.combine(self.at(alpha))

  def combine(self, losses: Mapping[str, float]) -> float:
    """Returns the objective of weights that are not on the path, on the scale of those that are.

    Args:
      losses: {task: mean loss}, of all tasks.
    """
    if not self._ready:
      self._prepare()
    parts = [
      weight * math.fsum(self._normalised(name, losses[name]) for name in group) / len(group)
      for weight, group in zip(self._weights, (self._supported, self._patching), strict=True)
    ]
    return sum(parts)

  def at(self, alpha: float) -> dict[str, float]:
    """Returns {task: loss} at alpha, and evaluates it if it is not cached."""
    key = round(float(alpha), 12)
    if key not in self.losses:
      found = self._evaluate(key)
      for name in self._supported + self._patching:
        if name not in found:
          raise InputError(f"there is no loss for the task {name!r}; there are {', '.join(found) or 'none'}")
        if not math.isfinite(found[name]):
          raise NonFiniteError(f"the loss of {name!r} is {found[name]} at alpha {key:g}")
      self.losses[key] = {name: float(loss) for name, loss in found.items()}
    return self.losses[key]

  def _prepare(self) -> None:
    if self.normalisation == "endpoints":
      start, end = self.at(0.0), self.at(1.0)
      rises = [(end[name] - start[name], start[name]) for name in self._supported]
      falls = [(start[name] - end[name], start[name]) for name in self._patching]
      if any(change <= SMALLEST_RANGE * abs(first) for change, first in rises + falls):
        self.normalisation = "initial"
    if self.normalisation == "initial":
      for name in self._supported + self._patching:
        if not self.at(0.0)[name] > 0:
          raise InputError(
            f"the loss of {name!r} is {self.at(0.0)[name]:g} at alpha 0; nothing can be divided by it: "
            "write normalise='none'"
          )
    self._ready = True

  def _normalised(self, name: str, loss: float) -> float:
    if self.normalisation == "none":
      return loss
    if self.normalisation == "log_classes":
      return loss / math.log(self._num_classes[name])
    start = self.losses[0.0][name]
    if self.normalisation == "initial":
      return loss / start
    end = self.losses[1.0][name]
    return (loss - start) / (end - start) if name in self._supported else (loss - end) / (start - end)

  def _check(self, normalise: str) -> None:
    for group, names in (("supported", self._supported), ("patching", self._patching)):
      if not names:
        raise ConfigError(f"{group} is empty; name at least one task")
    names = self._supported + self._patching
    if twice := [name for name in names if names.count(name) > 1]:
      raise ConfigError(f"the task {twice[0]!r} is named twice; a task is either supported or patched")
    if normalise not in ("initial", "endpoints", "log_classes", "none"):
      raise ConfigError(f"normalise is {normalise!r}; write initial, endpoints, log_classes or none")
    if normalise == "log_classes":
      for name in names:
        if self._num_classes.get(name, 0) < 2:
          raise ConfigError(f"log_classes needs num_classes of at least 2 for {name!r}")
    if not all(math.isfinite(w) and w >= 0 for w in self._weights) or not any(self._weights):
      raise ConfigError(f"weights are {self._weights}; write two numbers of 0 or more, not both 0")
