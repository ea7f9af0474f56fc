"""Sums over the whole spectrum by random probes: trace, diagonal, Frobenius norm, spectral density.

Every estimate has its standard error. Probes have entries of +-1 (Rademacher): among all probes with
independent entries of mean 0 and variance 1 they give the trace with the least variance.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import tree
from jaxtl.curvature import krylov
from jaxtl.curvature.estimate import Estimate, check_num_samples, of_samples
from jaxtl.curvature.finite import check_product
from jaxtl.curvature.krylov import Basis, eigh_tridiagonal, tridiagonalize
from jaxtl.curvature.products import Matvec
from jaxtl.errors import ConfigError
from jaxtl.types import Array, Params


def trace(matvec: Matvec, like: Params, key: Array, *, num_samples: int = 32) -> Estimate:
  """Estimates tr H by the mean of <v, H v>. Hutchinson, 1990.

  Its variance is 2 (|H|_F^2 - sum_i H_ii^2) / num_samples; it is exact for a diagonal matrix.

  Args:
    matvec: v -> H v, symmetric.
    like: a tree with the shapes and types of v, such as the parameters.
    key: for the probes.
    num_samples: number of probes, with one product each.

  Raises:
    ConfigError: num_samples is below 2.
    InputError: a product has a NaN or an infinity; the message names its first leaf.
  """
  check_num_samples(num_samples)
  samples = [_along(matvec, vector, like) for vector in _probes(key, like, num_samples)]
  return of_samples(samples, num_evaluations=num_samples)


def trace_hutch_plus_plus(matvec: Matvec, like: Params, key: Array, *, num_products: int = 33) -> Estimate:
  """Estimates tr H, exactly on a random subspace with most of a decaying spectrum, by probes on the rest.

  A third of the products finds the subspace, a third gives its trace, and a third is for probes orthogonal to
  it. For positive semi-definite matrices the error falls as 1 / num_products, and not as its root. Meyer,
  Musco, Musco, Woodruff, "Hutch++: optimal stochastic trace estimation", 2021, arXiv 2010.09649.

  Args:
    matvec: v -> H v, symmetric.
    like: a tree with the shapes and types of v, such as the parameters; a third of `num_products` such trees
      are stored.
    key: for the probes.
    num_products: total of all three parts.

  Returns:
    The estimate; its standard error is that of the last part, the only one that is random given the subspace.

  Raises:
    ConfigError: num_products is below 6, which leaves fewer than two probes.
    InputError: a product has a NaN or an infinity; the message names its first leaf.
  """
  third = num_products // 3
  if third < 2:
    raise ConfigError(
      f"num_products is {num_products}; a standard error takes a third of it, so write at least 6"
    )
  sketch_key, probe_key = jax.random.split(key)
  basis, inside = Basis(like), 0.0
  for vector in _probes(sketch_key, like, third):
    product = matvec(vector)
    check_product(product, float(tree.norm(product)))
    direction = basis.orthonormal(product)
    if direction is not None:
      inside += _along(matvec, direction, like)
      basis.append(direction)
  count = num_products - third - len(basis)
  samples = [_along(matvec, basis.project_out(vector), like) for vector in _probes(probe_key, like, count)]
  rest = of_samples(samples, num_evaluations=third + len(basis) + count)
  return rest._replace(value=inside + rest.value)


@dataclasses.dataclass(frozen=True)
class Diagonal:
  """An estimate of the diagonal of a matrix.

  Attributes:
    value: a tree like the parameters.
    standard_error: of each entry, in a tree like the parameters.
    num_samples: number of products.
  """

  value: Params
  standard_error: Params
  num_samples: int


def diagonal(matvec: Matvec, like: Params, key: Array, *, num_samples: int = 32) -> Diagonal:
  """Estimates the diagonal of H by the mean of v * H v. Bekas, Kokiopoulou, Saad, 2007.

  The variance of an entry is the sum of the squares of the other entries in its row, over `num_samples`.

  Args:
    matvec: v -> H v, symmetric.
    like: a tree with the shapes and types of v, such as the parameters.
    key: for the probes.
    num_samples: number of probes, with one product each.

  Raises:
    ConfigError: num_samples is below 2.
    InputError: a product has a NaN or an infinity; the message names its first leaf.
  """
  check_num_samples(num_samples)
  mean, squares = tree.zeros_like(like), tree.zeros_like(like)
  for number, vector in enumerate(_probes(key, like, num_samples), start=1):
    product = matvec(vector)
    check_product(product, float(tree.norm(product)))
    mean, squares = _welford(mean, squares, tree.mul(vector, product), number)
  error = jax.tree.map(lambda x: jnp.sqrt(x / (num_samples * (num_samples - 1))), squares)
  return Diagonal(mean, error, num_samples)


def frobenius(matvec: Matvec, like: Params, key: Array, *, num_samples: int = 32) -> Estimate:
  """Estimates |H|_F, the root of the sum of all squared entries, as the root of the mean of |H v|^2.

  The sum of the squared eigenvalues is the same. Arguments and errors are those of `trace`. The standard
  error is that of the mean, propagated through the root.
  """
  check_num_samples(num_samples)
  samples = []
  for vector in _probes(key, like, num_samples):
    length = float(tree.norm(product := matvec(vector)))
    check_product(product, length)
    samples.append(length**2)
  square = of_samples(samples, num_evaluations=num_samples)
  value = square.value**0.5
  return square._replace(value=value, standard_error=square.standard_error / (2 * value) if value else 0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Density:
  """The distribution of the eigenvalues, as a quadrature rule from each of several probes.

  Attributes:
    nodes: float64 [S, m], where the rule of each probe has its weights; padded with the last node.
    weights: float64 [S, m], each row with the sum 1; padding has the weight 0.
    dimension: n, the number of eigenvalues.
    num_products: total of all probes.
    shorter: the rules of the same probes after half of their steps; None in `shorter` itself.
  """

  nodes: np.ndarray
  weights: np.ndarray
  dimension: int
  num_products: int
  shorter: Density | None = None

  def sum_of(self, function: Callable[[np.ndarray], np.ndarray]) -> Estimate:
    """Estimates sum_i function(lambda_i) over all n eigenvalues, which is tr function(H).

    The estimate is unbiased for polynomials up to the degree 2 m - 1. Other functions have a bias that falls
    with m; `shorter` shows whether it still does. If few eigenvalues make up most of the sum, the samples are
    skewed, and few probes state too small an error. Few probes also estimate the standard error itself badly,
    so ± one standard error contains the true value less often than in the 68 of 100 cases of a normal
    distribution. The wider interval by Student's t (`Estimate.error`) allows for that, but not for the
    skewness of samples that one eigenvalue dominates: `Estimate.coverage` returns how often such an interval
    contains the true value.
    """
    samples = self.dimension * np.sum(self.weights * function(self.nodes), axis=1)
    return of_samples(samples, num_evaluations=self.num_products)

  def trace(self) -> Estimate:
    """Estimates the sum of the eigenvalues."""
    return self.sum_of(lambda x: x)

  def moment(self, order: int) -> Estimate:
    """Estimates the mean of lambda^order."""
    found = self.sum_of(lambda x: x**order)
    return found._replace(
      value=found.value / self.dimension, standard_error=found.standard_error / self.dimension
    )

  def effective_dimension(self, *, alpha: float = 1.0) -> Estimate:
    """Estimates sum_i lambda_i / (lambda_i + alpha) over the positive eigenvalues.

    It counts the directions that the data determine. Maddox, Benton, Wilson, "Rethinking parameter counting
    in deep models", 2020, arXiv 2003.02139.

    For a positive semi-definite matrix, such as the Gauss-Newton one of the cross-entropy, it converges
    within a few times sqrt(lambda_max / alpha) steps. Negative eigenvalues, which the Gauss-Newton matrix of
    a loss that is not convex has, are left out; `negative_share` returns their share. For an indefinite
    Hessian the function has a kink at 0, where nearly all eigenvalues lie, so that more steps do not settle
    the value.

    Args:
      alpha: the curvature from which a direction counts, that of the prior in the paper; above 0.

    Raises:
      ConfigError: alpha is not above 0.
    """
    if not alpha > 0:
      raise ConfigError(f"alpha is {alpha:g}; write a curvature above 0")
    return self.sum_of(lambda x: np.maximum(x, 0) / (np.maximum(x, 0) + alpha))

  def negative_share(self) -> float:
    """Returns the negative eigenvalues' share of the sum of all magnitudes; 0 if none is negative."""
    sizes = self.weights * np.abs(self.nodes)
    return float(np.sum(sizes, where=self.nodes < 0) / total) if (total := float(np.sum(sizes))) else 0.0

  def smoothed(self, grid: np.ndarray, *, width: float) -> np.ndarray:
    """Returns the density at `grid` [G], with each eigenvalue a Gaussian of standard deviation `width`."""
    distance = (grid[:, None, None] - self.nodes[None]) / width
    peaks = np.exp(-(distance**2) / 2) / (width * np.sqrt(2 * np.pi))
    return np.sum(self.weights * peaks, axis=(1, 2)) / len(self.nodes)


def spectral_density(
  matvec: Matvec, like: Params, key: Array, *, num_samples: int = 4, num_steps: int = 32
) -> Density:
  """Estimates the density of the eigenvalues of H by stochastic Lanczos quadrature.

  Every probe v gives the quadrature rule of its Lanczos recursion: nodes at the eigenvalues of T, weights
  from the squared first entries of its eigenvectors. Lin, Saad, Yang, "Approximating spectral densities of
  large matrices", 2016, arXiv 1308.5467; for networks Ghorbani, Krishnan, Xiao, 2019, arXiv 1901.10159.

  Args:
    matvec: v -> H v, symmetric.
    like: a tree with the shapes and types of v, such as the parameters; `num_steps` such trees are stored.
    key: for the probes.
    num_samples: number of probes.
    num_steps: m, number of products per probe.

  Raises:
    ConfigError: num_samples is below 2, or num_steps below 1.
    InputError: a product has a NaN or an infinity; the message names its first leaf.
  """
  check_num_samples(num_samples)
  if num_steps < 1:
    raise ConfigError(f"num_steps is {num_steps}; write at least 1")
  found = []
  for vector in _probes(key, like, num_samples):
    *_, last = itertools.islice(tridiagonalize(matvec, vector), num_steps)
    found.append((last.diagonal, last.off_diagonal))  # without the basis, which is large
  shorter = _density(found, (num_steps + 1) // 2, tree.size(like))
  return dataclasses.replace(_density(found, num_steps, tree.size(like)), shorter=shorter)


def _density(found: Sequence[tuple[np.ndarray, np.ndarray]], num_steps: int, dimension: int) -> Density:
  """Makes the rules from each probe's matrix T, given by its diagonals, as it was after `num_steps` steps."""
  nodes, weights = np.zeros((2, len(found), num_steps))
  products = 0
  for number, (diagonal, beside) in enumerate(found):
    steps = min(num_steps, len(diagonal))
    values, vectors = eigh_tridiagonal(diagonal[:steps], beside[: steps - 1])
    nodes[number] = values[-1]  # padding has no weight, but functions are evaluated there
    nodes[number, :steps], weights[number, :steps] = values, vectors[0] ** 2
    products += steps
  return Density(nodes, weights, dimension, products)


def _probes(key: Array, like: Params, count: int) -> Iterator[Params]:
  for one in jax.random.split(key, count):
    yield tree.random_like(one, like, sampler=jax.random.rademacher)


def _along(matvec: Matvec, vector: Params, like: Params) -> float:
  """Computes <v, H v>, with v rounded to the types of `like` for the product."""
  product = matvec(krylov.like(vector, like))
  value = float(tree.dot(vector, product))
  check_product(product, value)
  return value


@jax.jit
def _welford(mean: Params, squares: Params, sample: Params, number: Array) -> tuple[Params, Params]:
  """Updates the mean and the sum of squared distances from it with one more sample, the `number`th."""
  change = tree.sub(sample, mean)
  mean = jax.tree.map(lambda m, c: m + (c / number).astype(m.dtype), mean, change)
  return mean, tree.add(squares, tree.mul(change, tree.sub(sample, mean)))
