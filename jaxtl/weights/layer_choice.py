"""The choice of a layer from the diagnosis of all of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from jaxtl.errors import ConfigError
from jaxtl.weights.layer_groups import Group


@dataclasses.dataclass(frozen=True)
class Finding:
  """The diagnosis of one layer.

  Attributes:
    group: the layer.
    weight_norm: |w_l|.
    gradient_norm: of the loss in the layer, |g_l|.
    start: the loss at the weights.
    delta: Delta L_l, the fall of the loss if only this layer is changed; never negative.
    step: |Delta w_l|, how far the layer was changed; 0 if nothing better was found.
    unbounded: whether the loss still fell at the longest step, so that `delta` is a lower bound.
    unimodal: whether the loss showed one valley.
    num_evaluations: passes over the images with this layer changed, including the start.
    kappa_hvp: half the Rayleigh quotient of the layer's Hessian along its gradient; None if not computed.
  """

  group: Group
  weight_norm: float
  gradient_norm: float
  start: float
  delta: float
  step: float
  unbounded: bool
  unimodal: bool
  num_evaluations: int
  kappa_hvp: float | None = None

  @property
  def kappa(self) -> float | None:
    """Delta L / |Delta w|^2; None if nothing better was found."""
    return self.delta / self.step**2 if self.step else None

  @property
  def kappa_rel(self) -> float | None:
    """Delta L |w|^2 / |Delta w|^2, which a rescaling of layers that keeps the function does not change."""
    return None if self.kappa is None else self.kappa * self.weight_norm**2

  @property
  def relative_step(self) -> float | None:
    """|Delta w| / |w|; None for weights that are all zero."""
    return self.step / self.weight_norm if self.weight_norm else None


@dataclasses.dataclass(frozen=True)
class Choice:
  """The layers that post-training chooses automatically.

  Attributes:
    perturb: the layer with the largest curvature; None if none qualifies.
    update: the layer with the most room for improvement; None if none has any.
    small: names of the layers that were left out because they have few parameters.
  """

  perturb: str | None
  update: str | None
  small: frozenset[str]


def choose(
  findings: Sequence[Finding], *, by: Literal["kappa", "kappa_rel"] = "kappa", smallest: float = 0.01
) -> Choice:
  """Chooses the layer to perturb, arg-max kappa, and the layer to update, arg-max Delta L.

  It leaves out layers with few parameters, whose kappa is large because |Delta w| is small, and values that
  are not finite. For the layer to perturb it also leaves out layers that are unbounded and those where
  nothing better was found. Among equal layers it takes the last, which is nearest to the head and cheapest to
  train.

  Args:
    findings: in forward order.
    by: the curvature that counts. kappa depends on how the function is split into weights: a rescaling of a
      layer by c that the next one undoes changes it by 1 / c^2.
    smallest: part of the median number of parameters below which a layer is small.

  Raises:
    ConfigError: a keyword is out of its range, or there are no findings.
  """
  if by not in ("kappa", "kappa_rel"):
    raise ConfigError(f"by is {by!r}; write 'kappa' or 'kappa_rel'")
  if not 0 <= smallest <= 1:
    raise ConfigError(f"smallest is {smallest}; write a part of the median, such as 0.01")
  if not findings:
    raise ConfigError("there are no layers to choose from; diagnose at least one")
  least = smallest * float(np.median([found.group.num_parameters for found in findings]))
  large = [found for found in findings if found.group.num_parameters >= least]
  curved = {found.group.name: getattr(found, by) for found in large if found.step > 0 and not found.unbounded}
  return Choice(
    perturb=_last_largest(curved),
    update=_last_largest({found.group.name: found.delta for found in large if found.delta > 0}),
    small=frozenset(found.group.name for found in findings if found not in large),
  )


def _last_largest(values: dict[str, float]) -> str | None:
  finite = {name: value for name, value in values.items() if math.isfinite(value)}
  best = max(finite.values(), default=None)
  return next((name for name in reversed(finite) if finite[name] == best), None)
