"""The options of each part of a flatness study, in addition to lambda_max, and their defaults."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxtl import config as config_lib
from jaxtl.measure.passes import BLOCK, FORWARD, GRADIENT, PRODUCT


@dataclasses.dataclass(frozen=True)
class Spectrum:
  """The spectrum of the Hessian: its largest eigenvalues by Lanczos, and its density by random probes.

  The effective dimension is that of the Gauss-Newton matrix, whose density needs the same number of products.
  `Density.effective_dimension` explains why it is not that of the Hessian.

  Attributes:
    num_eigenvalues: number of largest eigenvalues.
    max_products: maximum number of products for them.
    tolerance: relative residual that they must reach.
    num_probes, num_steps: settings of both densities; each density needs num_probes * num_steps products.
    alpha: the curvature above which a direction counts in the effective dimension.
  """

  num_eigenvalues: int = 3
  max_products: int = 40
  tolerance: float = 1e-2
  num_probes: int = 6
  num_steps: int = 20
  alpha: float = 1.0

  def __post_init__(self) -> None:
    config_lib.require(
      num_eigenvalues=(self.num_eigenvalues, self.num_eigenvalues >= 1, "at least 1"),
      max_products=(self.max_products, self.max_products >= self.num_eigenvalues, "num_eigenvalues or more"),
      tolerance=(self.tolerance, self.tolerance > 0, "a number above 0"),
      num_probes=(self.num_probes, self.num_probes >= 2, "at least 2, for a standard error"),
      num_steps=(self.num_steps, self.num_steps >= 1, "at least 1"),
      alpha=(self.alpha, self.alpha > 0, "a curvature above 0"),
    )

  @property
  def passes(self) -> float:
    """Maximum number of image passes."""
    return PRODUCT * (self.max_products + 2 * self.num_probes * self.num_steps)


@dataclasses.dataclass(frozen=True)
class BlockCurvature:
  """Measures each block alone: lambda_max and trace of its Hessian, effective dimension, and SAM's sharpness.

  Attributes:
    max_products: maximum number of products for the eigenvalue of a block.
    tolerance: relative residual that it must reach.
    num_probes: number of probes for the trace of a block.
    effective_probes, effective_steps: settings of the density of a block's Gauss-Newton matrix, which needs
      effective_probes * effective_steps products. Rows record the change over the latter half of the steps.
    alpha: the curvature above which a direction counts in the effective dimension.
    rho: radius of the ball of SAM's first-order sharpness, in which only the block moves.
    where: a regex of the parameters of a block that count, such as `kernel$`; None: all.
  """

  max_products: int = 20
  tolerance: float = 3e-2
  num_probes: int = 4
  effective_probes: int = 4
  effective_steps: int = 12
  alpha: float = 1.0
  rho: float = 0.05
  where: str | None = None

  def __post_init__(self) -> None:
    config_lib.require(
      max_products=(self.max_products, self.max_products >= 1, "at least 1"),
      tolerance=(self.tolerance, self.tolerance > 0, "a number above 0"),
      num_probes=(self.num_probes, self.num_probes >= 2, "at least 2, for a standard error"),
      effective_probes=(self.effective_probes, self.effective_probes >= 2, "at least 2, for a spread"),
      effective_steps=(self.effective_steps, self.effective_steps >= 1, "at least 1"),
      alpha=(self.alpha, self.alpha > 0, "a curvature above 0"),
      rho=(self.rho, self.rho > 0, "a number above 0"),
      where=(self.where, self.where != "", "a regex, or None for all parameters"),
    )

  def passes(self, num_blocks: int) -> float:
    """Returns the maximum number of image passes for `num_blocks` blocks."""
    products = self.max_products + self.num_probes + self.effective_probes * self.effective_steps
    return GRADIENT + num_blocks * (BLOCK * products + 2 * FORWARD)


@dataclasses.dataclass(frozen=True)
class Sharpness:
  """Measures how much the loss rises near the weights.

  Attributes:
    rho, adaptive_rho: radius of the ball of SAM's and of ASAM's sharpness.
    num_steps: gradients of the ascent in the ball; 1 is the first order.
    sigma, adaptive_sigma: standard deviation of the noise of the average sharpness, absolute and relative to
      each weight.
    num_samples: pairs of draws of the noise, and products for the relative flatness of the head.
  """

  rho: float = 0.05
  adaptive_rho: float = 0.1
  num_steps: int = 3
  sigma: float = 0.005
  adaptive_sigma: float = 0.05
  num_samples: int = 8

  def __post_init__(self) -> None:
    sizes = {name: getattr(self, name) for name in ("rho", "adaptive_rho", "sigma", "adaptive_sigma")}
    config_lib.require(
      num_steps=(self.num_steps, self.num_steps >= 1, "at least 1"),
      num_samples=(self.num_samples, self.num_samples >= 2, "at least 2, for a standard error"),
      **{name: (value, value > 0, "a number above 0") for name, value in sizes.items()},
    )

  @property
  def passes(self) -> float:
    """Maximum number of image passes: three ascents, two averages, the Fisher information and the head."""
    gradients = 1 + 2 * self.num_steps
    evaluations = 3 + gradients + 2 * (2 * self.num_samples + 1)
    return GRADIENT * gradients + FORWARD * evaluations + PRODUCT + BLOCK * self.num_samples


@dataclasses.dataclass(frozen=True)
class Slice:
  """The loss along lines through the weights.

  Attributes:
    num_points: points per line; odd, so that the weights themselves are one of them.
    span: length on either side along a random filter-normalised direction, in norms of the filters.
    eigen_span: length on either side along the eigenvector of lambda_max, as a distance.
    towards: another checkpoint of the same model, at position 1 of the line to it; normalisation statistics
      move along.
  """

  num_points: int = 21
  span: float = 0.5
  eigen_span: float = 0.5
  towards: str | None = None

  def __post_init__(self) -> None:
    _require_grid(self.num_points, self.span)
    config_lib.require(eigen_span=(self.eigen_span, self.eigen_span > 0, "a number above 0"))

  @property
  def passes(self) -> float:
    """Number of image passes of all lines."""
    return FORWARD * self.num_points * (2 if self.towards is None else 3)


@dataclasses.dataclass(frozen=True)
class Plane:
  """The loss over a plane of two directions.

  Attributes:
    num_points: points per side; odd, so that the weights themselves are one of them.
    span: length on either side, in norms of the filters.
    axes: "random": two random filter-normalised directions. "eigenvector": that of lambda_max, with the
      length of a random direction orthogonal to it.
    points_per_call: points per compiled call; more may be faster on an accelerator, but not on the CPU.
  """

  num_points: int = 11
  span: float = 0.5
  axes: Literal["random", "eigenvector"] = "random"
  points_per_call: int = 1

  def __post_init__(self) -> None:
    _require_grid(self.num_points, self.span)
    config_lib.require(points_per_call=(self.points_per_call, self.points_per_call >= 1, "at least 1"))

  @property
  def passes(self) -> float:
    """Number of image passes."""
    return FORWARD * self.num_points**2


def _require_grid(num_points: int, span: float) -> None:
  config_lib.require(
    num_points=(num_points, num_points >= 3 and num_points % 2 == 1, "an odd number of at least 3"),
    span=(span, span > 0, "a number above 0"),
  )
