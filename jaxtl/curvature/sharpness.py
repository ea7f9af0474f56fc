"""Sharpness: how much the loss rises near the weights, and measures that no rescaling of the weights changes.

A network of ReLUs computes the same function when a unit's incoming weights are multiplied by c > 0 and its
outgoing ones by 1 / c (Dinh, Pascanu, Bengio, Bengio, "Sharp Minima Can Generalize For Deep Nets", 2017,
arXiv 1703.04933). Each docstring names the changes to which its measure is invariant; a measure without this
invariance can only compare weights of one scale.

`loss` and `gradient` are functions of the parameters that may themselves stream data: they are called from
Python, and never traced.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxtl import tree
from jaxtl.config import first_few
from jaxtl.curvature.estimate import Estimate, check_num_samples, of_samples
from jaxtl.curvature.krylov import tridiagonalize
from jaxtl.curvature.products import Matvec
from jaxtl.errors import ConfigError, InputError, NonFiniteLossError
from jaxtl.types import Array, Params

Loss = Callable[[Params], Array | float]


def sam_sharpness(
  loss: Loss, gradient: Callable[[Params], Params], params: Params, *, rho: float, num_steps: int = 1
) -> float:
  """Estimates max L(w + eps) - L(w) over the ball |eps| <= rho, from below, by gradient ascent.

  Foret, Kleiner, Mobahi, Neyshabur, "Sharpness-Aware Minimization for Efficiently Improving Generalization",
  2021, arXiv 2010.01412: one step to eps = rho g / |g|. Further steps continue from the best point so far and
  are projected onto the ball; a step that does not raise the loss is undone and halved. So more steps never
  find less, and the result is never below the 0 of eps = 0. If the gradient is zero, the result is 0 whatever
  the curvature.

  It is not invariant to the rescaling of units or of layers; `adaptive_sam_sharpness` is. It is invariant to
  changes that preserve distances, such as a permutation of units.

  Args:
    loss: params -> scalar L.
    gradient: params -> its gradient, a tree like `params`.
    params: the weights w, a tree of float arrays.
    rho: radius, in units of the weights; 0.05 in the paper.
    num_steps: number of gradients to take; 1 in the paper.

  Returns:
    The rise of the loss, at least 0.

  Raises:
    ConfigError: `rho` is not positive and finite, or `num_steps` below 1.
    InputError: a loss or a gradient on the way is not finite.
  """
  return _ascend(loss, gradient, params, jax.tree.map(jnp.ones_like, params), rho=rho, num_steps=num_steps)


def adaptive_sam_sharpness(
  loss: Loss,
  gradient: Callable[[Params], Params],
  params: Params,
  *,
  rho: float,
  eta: float = 0.0,
  num_steps: int = 1,
) -> float:
  """Estimates max L(w + eps) - L(w) over the ball |eps / T| <= rho with T = |w| + eta, elementwise.

  Kwon, Kim, Park, Choi, "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep
  Neural Networks", 2021, arXiv 2102.11600: one step to eps = rho T^2 g / |T g|; further steps as in
  `sam_sharpness`, in eps / T.

  With eta = 0 it is invariant to every rescaling of single weights that leaves the function unchanged,
  including that of units and of layers; with eta > 0 it is so only roughly. Unlike in the authors' training,
  T = |w| holds also for biases and normalisation parameters: with T = 1 rescaling them would change the
  result.

  Args:
    loss, gradient, params, num_steps: as in `sam_sharpness`.
    rho: radius, relative to the weights; 0.5 for CIFAR-10 and 1.0 for CIFAR-100 in the paper.
    eta: lets weights near zero move; 0.01 in the paper's training, 0 here to keep the invariance.

  Returns:
    The rise of the loss, at least 0.

  Raises:
    ConfigError: as in `sam_sharpness`, or `eta` is negative.
    InputError: as in `sam_sharpness`.
  """
  if not (math.isfinite(eta) and eta >= 0):
    raise ConfigError(f"eta is {eta}; write a number that is not negative")
  sizes = jax.tree.map(lambda w: jnp.abs(w) + jnp.asarray(eta, w.dtype), params)
  return _ascend(loss, gradient, params, sizes, rho=rho, num_steps=num_steps)


def average_sharpness(loss: Loss, params: Params, key: Array, *, sigma: float, num_samples: int) -> Estimate:
  """Estimates E L(w + n) - L(w) for Gaussian noise n of standard deviation sigma.

  To second order this is sigma^2 tr(H) / 2. Each sample is the mean over a pair n, -n, in which the
  contribution of the gradient, which is noise without information, cancels.

  It is not invariant to any rescaling; `adaptive_average_sharpness` is. A permutation of units, like every
  change that preserves distances, leaves the expectation unchanged but not a sample, because the noise of a
  key is then assigned to other weights.

  Args:
    loss: params -> scalar L.
    params: the weights w, a tree of float arrays.
    key: for the noise.
    sigma: standard deviation, in units of the weights.
    num_samples: number of pairs, at least 2.

  Returns:
    An `Estimate` over pairs, from 2 num_samples + 1 evaluations of the loss. It is negative near a maximum.

  Raises:
    ConfigError: `sigma` is not positive and finite, or `num_samples` below 2.
    InputError: a loss on the way is not finite.
  """
  return _average(
    loss,
    params,
    key,
    jax.tree.map(jnp.ones_like, params),
    sigma=sigma,
    num_samples=num_samples,
  )


def adaptive_average_sharpness(
  loss: Loss, params: Params, key: Array, *, sigma: float, num_samples: int
) -> Estimate:
  """Estimates E L(w + n) - L(w) for Gaussian noise n of standard deviation sigma |w|, elementwise.

  Andriushchenko, Croce, Mueller, Hein, Flammarion, "A Modern Look at the Relationship between Sharpness and
  Generalization", 2023, arXiv 2302.07011, average-case sharpness with c = |w|: sigma^2 <w^2, diag H> / 2 to
  second order.

  It is invariant to every positive rescaling of single weights that leaves the function unchanged, including
  that of units and of layers; with the same key, sample by sample. A weight of zero stays zero.

  Arguments, result and errors are those of `average_sharpness`; `sigma` is relative to each weight.
  """
  sizes = jax.tree.map(jnp.abs, params)
  return _average(loss, params, key, sizes, sigma=sigma, num_samples=num_samples)


def fisher_rao_norm(fisher: Matvec, params: Params, *, num_products: int = 8) -> float:
  """Computes sqrt(<w, F w>), the length of the weights in the metric of the Fisher information at them.

  Liang, Poggio, Rakhlin, Stokes, "Fisher-Rao Metric, Geometry, and Complexity of Neural Networks", 2019,
  arXiv 1711.01530. For a network of ReLUs without biases, with k layers and outputs f, it is
  k sqrt(E <dl/df, f>^2), where the expectation is over examples and, for the true Fisher information, over
  labels drawn from the prediction.

  It is invariant to every linear change A of the weights that leaves the function unchanged, since F becomes
  A^-T F A^-1. This includes the rescaling of units and of layers, and the permutation of units.

  Args:
    fisher: v -> F v, symmetric and without negative eigenvalues, taken at `params`.
    params: the weights w, a tree of float arrays.
    num_products: maximum number of products. The first is F w; further ones look for a negative eigenvalue,
      by Lanczos from w.

  Raises:
    ConfigError: `num_products` is below 1.
    InputError: <w, F w> is not finite, or F has a negative eigenvalue beyond rounding, as the Hessian and the
      Gauss-Newton matrix of a loss that is not convex have; not every such matrix is detected.
  """
  if num_products < 1:
    raise ConfigError(f"num_products is {num_products}; write at least 1")
  product = fisher(params)
  square = float(tree.dot(params, product))
  rounding = 1e-5 * float(tree.norm(params)) * float(tree.norm(product))
  if not math.isfinite(square) or square < -rounding:
    raise InputError(f"<w, F w> is {square:g}; a Fisher product gives a finite number that is not negative")
  if num_products > 1 and math.isfinite(length := float(tree.norm(params))) and length > 0:
    *_, last = itertools.islice(tridiagonalize(fisher, params), num_products)
    values = last.eigh()[0]
    if values[0] < -1e-3 * max(abs(values[0]), abs(values[-1])):
      raise InputError(
        f"F has an eigenvalue of {values[0]:.3g} or below, where the largest is {values[-1]:.3g} or above; a "
        "Fisher information has no negative one: take that of the cross-entropy, curvature.fisher"
      )
  return math.sqrt(max(square, 0.0))


def relative_flatness(
  matvec: Matvec, params: Params, key: Array, *, where: str, num_samples: int
) -> Estimate:
  """Estimates the relative flatness of a layer: the trace of its Hessian, weighted by weight inner products.

  Petzka, Kamp, Adilova, Sminchisescu, Boley, "Relative Flatness and Generalization", 2021, arXiv 2001.00939:
  kappa = sum_{s, s'} <w_s, w_s'> tr(H_{s, s'}), where w_s are the incoming weights of output s and H_{s, s'}
  the second derivatives with respect to w_s and w_s'. It is estimated by products with V = z (u^T W), where W
  is [fan-in, outputs] and u and z have independent random signs: E[V_ts V_t's'] = <w_s, w_s'> for t = t',
  else 0, so that E <V, H V> = kappa. It may be negative if the loss is not convex in the layer.

  It is invariant to a factor c on W with a factor 1 / c on the next or the previous layer, and to a separate
  factor for each output of this layer. It is not invariant to factors that differ among its inputs, nor for a
  kernel with groups, whose outputs do not share their inputs.

  Args:
    matvec: v -> H v over the whole tree.
    params: the weights, a tree of float arrays.
    key: for the signs.
    where: path regex that matches one kernel, [in, out] or [..., in, out]; the last axis is that of outputs.
    num_samples: number of products, at least 2.

  Returns:
    An `Estimate`.

  Raises:
    ConfigError: `where` matches no parameter, several, or one with a single axis; `num_samples` is below 2.
    InputError: a product is not finite.
  """
  check_num_samples(num_samples)
  chosen, kernel = _only_kernel(params, where)
  samples = []
  for one in jax.random.split(key, num_samples):
    probe = _rank_one(one, kernel)
    vector = tree.map_with_path(lambda path, w, v=probe: v if path == chosen else jnp.zeros_like(w), params)
    samples.append(float(tree.dot(vector, matvec(vector))))
  if not all(map(math.isfinite, samples)):
    raise InputError(f"a Hessian product along {chosen!r} is not finite; check the loss at these parameters")
  return of_samples(samples, num_evaluations=num_samples)


def _ascend(
  loss: Loss,
  gradient: Callable[[Params], Params],
  params: Params,
  sizes: Params,
  *,
  rho: float,
  num_steps: int,
) -> float:
  """Returns the best rise found in the ball |delta| <= rho, by ascent in delta = eps / sizes."""
  _check_positive("rho", rho)
  if num_steps < 1:
    raise ConfigError(f"num_steps is {num_steps}; write at least 1")
  place = "at the parameters"
  start = _value(loss, params, place)
  best, rise, step = tree.zeros_like(params), 0.0, rho
  at, slope = params, None
  for _ in range(num_steps):
    if slope is None:  # otherwise the last step was undone, and the gradient is known
      slope, steepness = _slope(gradient, at, sizes, place)
    if steepness == 0:
      break
    delta = _step_in_ball(best, slope, step / steepness, rho)
    moved = _moved(params, sizes, delta, 1.0)
    place = f"within rho = {rho:g} of the parameters; take a smaller rho"
    found = _value(loss, moved, place) - start
    if found > rise:
      best, rise, at, slope = delta, found, moved, None
    else:
      step /= 2
  return rise


def _average(
  loss: Loss, params: Params, key: Array, sizes: Params, *, sigma: float, num_samples: int
) -> Estimate:
  _check_positive("sigma", sigma)
  check_num_samples(num_samples)
  start = _value(loss, params, "at the parameters")
  place = f"under noise of sigma = {sigma:g}; take a smaller sigma"
  samples = []
  for one in jax.random.split(key, num_samples):
    noise = tree.random_like(one, params)
    pair = [_value(loss, _moved(params, sizes, noise, sign * sigma), place) - start for sign in (1, -1)]
    samples.append(sum(pair) / 2)
  return of_samples(samples, num_evaluations=2 * num_samples + 1)


@jax.jit
def _step_in_ball(position: Params, slope: Params, step: Array | float, radius: Array | float) -> Params:
  there = tree.add(position, tree.scale(step, slope))
  return tree.scale(jnp.minimum(1, radius / tree.norm(there)), there)


@jax.jit
def _moved(params: Params, sizes: Params, delta: Params, factor: Array | float) -> Params:
  return jax.tree.map(lambda w, t, d: jnp.asarray(w + factor * t * d, w.dtype), params, sizes, delta)


@jax.jit
def _rank_one(key: Array, kernel: Array) -> Array:
  rows = kernel.reshape(-1, kernel.shape[-1])
  u, z = jax.random.rademacher(key, (2, rows.shape[0]), rows.dtype)
  return jnp.outer(z, jnp.matmul(u, rows, precision="highest")).reshape(kernel.shape)


def _only_kernel(params: Params, where: str) -> tuple[str, Array]:
  found = jax.tree.leaves(tree.matches(params, where))
  named = zip(tree.paths(params), jax.tree.leaves(params), strict=True)
  chosen = [leaf for leaf, on in zip(named, found, strict=True) if on]
  if len(chosen) > 1:
    raise ConfigError(
      f"{where!r} matches {len(chosen)} parameters, {first_few([path for path, _ in chosen])}; "
      "write a regex that finds one kernel"
    )
  [(path, kernel)] = chosen
  if kernel.ndim < 2:
    raise ConfigError(
      f"{path!r} has shape {tuple(kernel.shape)}; a kernel has a last axis of outputs and more"
    )
  return path, kernel


def _slope(
  gradient: Callable[[Params], Params], params: Params, sizes: Params, place: str
) -> tuple[Params, float]:
  """Returns the gradient with respect to eps / sizes, and its norm."""
  try:
    slope = tree.mul(sizes, gradient(params))
  except NonFiniteLossError as error:
    raise InputError(f"the loss is {error.value} {place}") from error
  steepness = float(tree.norm(slope))
  if not math.isfinite(steepness):
    raise InputError(f"the gradient's norm is {steepness} {place}")
  return slope, steepness


def _value(loss: Loss, params: Params, place: str) -> float:
  try:
    value = float(loss(params))
  except NonFiniteLossError as error:  # its message does not say at which place
    value = error.value
  if not math.isfinite(value):
    raise InputError(f"the loss is {value} {place}")
  return value


def _check_positive(name: str, value: float) -> None:
  if not (math.isfinite(value) and value > 0):
    raise ConfigError(f"{name} is {value}; write a positive number")
