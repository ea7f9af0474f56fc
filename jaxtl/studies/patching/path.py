"""The straight line between a network's weights before and after fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxtl import weights as weights_lib
from jaxtl.studies.patching.tasks import Scores, Tasks
from jaxtl.train import sharding
from jaxtl.types import Params


class WeightPath:
  """The straight line from one set of weights to another, with cached scores of the tasks on it.

  Args:
    tasks: the tasks.
    before, after: {"params", "batch_stats"} of the backbone, and "heads" if some are interpolated.
    statistics: (body, batch_stats) -> statistics of an interpolated backbone; None interpolates the stored
      ones.
    bounds: range of alpha; beyond [0, 1] it extrapolates.
  """

  def __init__(
    self,
    tasks: Tasks,
    before: Params,
    after: Params,
    *,
    statistics: Callable[[Params, Params], Params] | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
  ):
    mesh = tasks.runtime.mesh
    self._tasks, self._statistics = tasks, statistics
    ends = (sharding.put_replicated(end, mesh) for end in (before, after))
    self._at = weights_lib.line(*ends, bounds=bounds)
    self._known: dict[tuple[float, str, str], Scores] = {}

  def scores(self, alpha: float, names: Sequence[str], part: str = "validation") -> dict[str, Scores]:
    """Returns {task: {"loss", "top1"}} at (1 - alpha) before + alpha after.

    All tasks use one copy of the weights.
    """
    alpha = round(float(alpha), 12)
    missing = [name for name in names if (alpha, name, part) not in self._known]
    if missing:
      self._tasks.meter.place = f"α {alpha:.3f}"
      found = self.weights(alpha)
      for name in missing:
        self._known[alpha, name, part] = self._tasks.scores(name, part, found)
    return {name: self._known[alpha, name, part] for name in names}

  def losses(self, names: Sequence[str]) -> Callable[[float], dict[str, float]]:
    """Returns the function alpha -> {task: mean validation loss}."""
    return lambda alpha: {name: found["loss"] for name, found in self.scores(alpha, names).items()}

  def weights(self, alpha: float) -> Params:
    """Returns {"params", "batch_stats", "heads"} at alpha; 0 and 1 have the stored statistics."""
    found = self._at(alpha)
    if self._statistics is not None and alpha not in (0, 1):
      found |= {"batch_stats": self._statistics(found["params"], found["batch_stats"])}
    return found
