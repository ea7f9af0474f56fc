"""Merges of several models that were fine-tuned from the same weights into one.

There are means (soups, Fisher-weighted) and sums of task vectors tau_i = theta_i - theta_0, which are added,
subtracted, trimmed or thinned first. Leaves that are not floating, such as counters, are those of the first
tree. A model with batch normalisation has to re-estimate its statistics after a merge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import tree
from jaxtl.errors import ConfigError, InputError, NonFiniteError
from jaxtl.types import Array, Params
from jaxtl.weights.interpolate import check_finite, is_floating, line, widened
from jaxtl.weights.perturb import check_alike

TENTHS = tuple(number / 10 for number in range(11))


def wise_ft(
  before: Params, after: Params, *, alphas: Sequence[float] = TENTHS
) -> Iterator[tuple[float, Params]]:
  """Yields (alpha, weights) along the line from the zero-shot to the fine-tuned model, heads included.

  Wortsman et al., "Robust fine-tuning of zero-shot models", 2021, arXiv 2109.01903, plot the curve of
  accuracy within against accuracy outside the distribution, and take alpha = 0.5 if no data can decide. Only
  one copy of the weights is made at a time.

  Args:
    before, after: as for `interpolate`.
    alphas: within [0, 1]; the paper's by default.

  Raises:
    ConfigError: there are no alphas, or one is outside [0, 1].
    InputError: as `interpolate`.
  """
  if not len(alphas):
    raise ConfigError("alphas is empty; write at least one, such as 0.5")
  at = line(before, after)
  for alpha in alphas:
    if not 0 <= alpha <= 1:
      raise ConfigError(f"alphas has {alpha:g}, outside [0, 1]")
  return ((float(alpha), at(alpha)) for alpha in alphas)


def uniform_soup(models: Sequence[Params]) -> Params:
  """Averages all models.

  Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
  increasing inference time", 2022, arXiv 2203.05482.

  Args:
    models: trees with the same names, shapes and types.

  Returns:
    A tree in the types of the first, with the mean taken in float32 or wider.

  Raises:
    ConfigError: there are no models.
    InputError: the trees differ in names, shapes or types, or a weight is not finite.
  """
  _check_models(models)
  return _mean(models)


class GreedySoup(NamedTuple):
  """A soup and how it was made.

  Attributes:
    params: the mean of the members.
    members: positions in the list of models, in the order in which they were added.
    score: of the soup on the held-out data.
    single_scores: [n] of each model alone.
  """

  params: Params
  members: tuple[int, ...]
  score: float
  single_scores: tuple[float, ...]


def greedy_soup(models: Sequence[Params], evaluate: Callable[[Params], float]) -> GreedySoup:
  """Averages the models that each improve the mean when added in order from the best to the worst.

  Wortsman et al., "Model soups", 2022, arXiv 2203.05482, recipe 1, except that a model with an equal score is
  not added here. On the held-out data the soup is never worse than the best single model. It takes 2 n - 1
  evaluations.

  Args:
    models: n trees with the same names, shapes and types.
    evaluate: params -> held-out accuracy, or another score for which higher is better.

  Raises:
    ConfigError, InputError: as in `uniform_soup`.
    NonFiniteError: a score is not finite.
  """
  _check_models(models)
  scores = [_score(evaluate, model, f"model {number}") for number, model in enumerate(models)]
  first, *others = sorted(range(len(models)), key=lambda number: -scores[number])
  members, soup, best = [first], models[first], scores[first]
  for number in others:
    candidate = _mean([models[member] for member in [*members, number]])
    score = _score(evaluate, candidate, f"the soup with model {number}")
    if score > best:
      members, soup, best = [*members, number], candidate, score
  return GreedySoup(soup, tuple(members), best, tuple(scores))


def fisher_average(
  models: Sequence[Params],
  fishers: Sequence[Params],
  *,
  coefficients: Sequence[float] | None = None,
  floor: float = 1e-8,
) -> Params:
  """Returns sum_i c_i F_i theta_i / sum_i c_i F_i: each model counts at entries that its loss depends on.

  Matena and Raffel, "Merging Models with Fisher-Weighted Averaging", 2021, arXiv 2111.09832. With two models
  and coefficients (1 - alpha, alpha) it is the Fisher-weighted line of Wortsman et al., "Robust fine-tuning
  of zero-shot models", 2021, arXiv 2109.01903, whose code is the source of the floor.

  Args:
    models: n trees with the same names, shapes and types.
    fishers: n trees like the models: the diagonals of the Fisher matrices, zero or above.
    coefficients: [n] c_i from 0 up, not all 0; all equal by default.
    floor: lower Fisher values are raised to it: where no loss depends on an entry, the plain mean is taken.

  Raises:
    ConfigError: there are no models, the number of diagonals or coefficients differs, a coefficient is
      negative or not finite, all are 0, or the floor is not positive.
    InputError: the trees differ in names, shapes or types, a value is not finite, or a diagonal is negative.
  """
  _check_models(models)
  numbers = _coefficients(
    [1.0] * len(models) if coefficients is None else coefficients, len(models), "models"
  )
  if min(numbers) < 0 or not any(numbers):
    raise ConfigError(f"coefficients are {numbers}; write numbers of 0 or more, not all 0")
  if len(fishers) != len(models):
    raise ConfigError(f"{len(fishers)} Fisher diagonals for {len(models)} models; give one for each")
  if not (math.isfinite(floor) and floor > 0):
    raise ConfigError(f"floor is {floor}; write a positive number, such as 1e-8")
  _check_fishers(fishers, models[0])

  def leaf(x: Array, *rest: Array) -> Array:
    if not is_floating(x):
      return x
    thetas, diagonals = (x, *rest[: len(models) - 1]), rest[len(models) - 1 :]
    shares = [c * jnp.maximum(widened(f), floor) for c, f in zip(numbers, diagonals, strict=True)]
    total = sum(shares[1:], shares[0])
    # Shares are divided first: their products with weights could overflow.
    terms = [share / total * widened(theta) for share, theta in zip(shares, thetas, strict=True)]
    return sum(terms[1:], terms[0]).astype(x.dtype)

  return jax.tree.map(leaf, *models, *fishers)


def task_vector(before: Params, after: Params) -> Params:
  """Returns tau = after - before, in float32 or wider; zero where leaves are not floating.

  Ilharco, Ribeiro, Wortsman, Gururangan, Schmidt, Hajishirzi, Farhadi, "Editing Models with Task Arithmetic",
  2022, arXiv 2212.04089.

  Raises:
    InputError: the trees differ in names, shapes or types, or a weight is not finite.
  """
  names = ("the weights before fine-tuning", "those after it")
  check_alike(before, after, names=names)
  for weights, name in zip((before, after), names, strict=True):
    check_finite(weights, name=name)
  return jax.tree.map(
    lambda x, y: widened(y) - widened(x) if is_floating(x) else jnp.zeros_like(x), before, after
  )


def task_arithmetic(before: Params, vectors: Sequence[Params], coefficients: Sequence[float]) -> Params:
  """Returns theta_0 + sum_i c_i tau_i.

  Ilharco et al., "Editing Models with Task Arithmetic", 2022, arXiv 2212.04089. Addition has all c_i =
  lambda, which is 1 / n for the mean of n models; the paper chooses lambda by a grid on held-out data.
  Negation, to forget a task, has c = -lambda. One vector with c = alpha is `interpolate`, up to rounding. For
  analogies, see `analogy`.

  Args:
    before: theta_0.
    vectors: n trees tau_i like `before`, from `task_vector`, `ties` or `dare`.
    coefficients: [n] numbers c_i.

  Returns:
    A tree in the types of `before`, with the sum taken in float32 or wider.

  Raises:
    ConfigError: there are no vectors, the number of coefficients differs, or one is not finite.
    InputError: a tree differs from `before` in names or shapes, or has a value that is not finite.
  """
  check_finite(before, name="the weights before fine-tuning")
  _check_vectors(vectors, like=before)
  numbers = _coefficients(coefficients, len(vectors), "task vectors")

  def leaf(x: Array, *taus: Array) -> Array:
    if not is_floating(x):
      return x
    steps = [c * widened(tau) for c, tau in zip(numbers, taus, strict=True)]
    return sum(steps, widened(x)).astype(x.dtype)

  return jax.tree.map(leaf, before, *vectors)


def analogy(a: Params, b: Params, c: Params) -> Params:
  """Returns tau_C + tau_B - tau_A, "A is to B as C is to ...", a vector for `task_arithmetic`.

  Ilharco et al., "Editing Models with Task Arithmetic", 2022, arXiv 2212.04089, section 5.

  Raises:
    InputError: the trees differ in names or shapes, or one is not finite.
  """
  _check_vectors((a, b, c))
  return jax.tree.map(
    lambda x, y, z: widened(z) + widened(y) - widened(x) if is_floating(z) else jnp.asarray(z), a, b, c
  )


def ties(
  vectors: Sequence[Params], *, density: float = 0.2, aggregate: Literal["mean", "sum"] = "mean"
) -> Params:
  """Merges several task vectors into one: trims them, elects a sign for each entry, merges what agrees.

  Yadav, Tam, Choshen, Raffel, Bansal, "TIES-Merging: Resolving Interference When Merging Models", 2023, arXiv
  2306.01708. The largest entries of each vector are kept, over all leaves together. The sign of an entry is
  that of the sum over tasks; if the sum is zero it is that of the majority of all entries, or plus if they
  are even. Entries of that sign are merged. Exactly max(1, round(density * size)) entries are kept, the first
  of equal ones; the authors' code keeps one more. A copy of all vectors is on the host meanwhile.

  Args:
    vectors: n trees tau_i with the same names and shapes.
    density: the part of each vector that is kept; 0.2 is the paper's.
    aggregate: the mean over the tasks that agree, the paper's, or their sum.

  Raises:
    ConfigError: there are no vectors, the density is not in (0, 1], or another aggregate is named.
    InputError: the trees differ in names or shapes, a value is not finite, or no leaf is floating.
  """
  if not 0 < density <= 1:
    raise ConfigError(f"density is {density}; write a number above 0, at most 1")
  if aggregate not in ("mean", "sum"):
    raise ConfigError(f"aggregate is {aggregate!r}; write 'mean' or 'sum'")
  _check_vectors(vectors)
  trimmed = np.stack([_trimmed(_flat(vector), density) for vector in vectors])
  sign = np.sign(trimmed.sum(axis=0))
  sign[sign == 0] = np.sign(sign.sum()) or 1.0
  agrees = np.sign(trimmed) == sign
  merged = np.sum(trimmed, axis=0, where=agrees)
  if aggregate == "mean":
    merged /= np.maximum(agrees.sum(axis=0), 1)
  return _unflat(merged, vectors[0])


def dare(key: Array, vector: Params, *, drop: float = 0.5) -> Params:
  """Returns m tau / (1 - p), with each entry of m zero with probability p: sparse, with the mean tau.

  Yu, Yu, Yu, Huang, Li, "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a
  Free Lunch", 2023, arXiv 2311.03099. The result is for `task_arithmetic` or `ties`; each vector needs its
  own key.

  Args:
    key: for m.
    vector: tau, from `task_vector`.
    drop: p; tau itself at 0, zero at 1.

  Raises:
    ConfigError: p is not in [0, 1].
    InputError: an entry is not finite.
  """
  if not 0 <= drop <= 1:
    raise ConfigError(f"drop is {drop}; write a probability from 0 to 1")
  check_finite(vector, name="the task vector")
  if drop == 1:
    return tree.zeros_like(vector)
  keys = iter(jax.random.split(key, len(jax.tree.leaves(vector))))

  def leaf(tau: Array) -> Array:
    kept = jax.random.bernoulli(next(keys), 1 - drop, jnp.shape(tau))
    return jnp.where(kept, tau / (1 - drop), 0).astype(tau.dtype) if is_floating(tau) else jnp.asarray(tau)

  return jax.tree.map(leaf, vector)


def _mean(models: Sequence[Params]) -> Params:
  def leaf(x: Array, *others: Array) -> Array:
    if not is_floating(x):
      return x
    return (sum(map(widened, others), widened(x)) / len(models)).astype(x.dtype)

  return jax.tree.map(leaf, *models)


def _score(evaluate: Callable[[Params], float], params: Params, name: str) -> float:
  score = float(evaluate(params))
  if not math.isfinite(score):
    raise NonFiniteError(f"the score of {name} is {score}; a soup needs finite ones")
  return score


def _check_models(models: Sequence[Params]) -> None:
  if not len(models):
    raise ConfigError("there are no models; give at least one")
  for number, model in enumerate(models):
    check_alike(models[0], model, names=("model 0", f"model {number}"))
    check_finite(model, name=f"model {number}")


def _check_fishers(fishers: Sequence[Params], model: Params) -> None:
  for number, fisher in enumerate(fishers):
    name = f"Fisher diagonal {number}"
    check_alike(model, fisher, names=("model 0", name), types=False)
    check_finite(fisher, name=name)
    for path, entries in zip(tree.paths(fisher), jax.tree.leaves(fisher), strict=True):
      if bool(jnp.any(jnp.asarray(entries) < 0)):
        raise InputError(f"{path} of {name} is negative somewhere; a Fisher diagonal is a mean of squares")


def _check_vectors(vectors: Sequence[Params], *, like: Params | None = None) -> None:
  if not len(vectors):
    raise ConfigError("there are no task vectors; give at least one")
  first, name = (vectors[0], "task vector 0") if like is None else (like, "the weights before fine-tuning")
  for number, vector in enumerate(vectors):
    check_alike(first, vector, names=(name, f"task vector {number}"), types=False)
    check_finite(vector, name=f"task vector {number}")


def _coefficients(coefficients: Sequence[float], wanted: int, what: str) -> list[float]:
  numbers = [float(c) for c in coefficients]
  if len(numbers) != wanted:
    raise ConfigError(f"{len(numbers)} coefficients for {wanted} {what}; write one for each")
  if not all(map(math.isfinite, numbers)):
    raise ConfigError(f"coefficients are {numbers}; write finite numbers")
  return numbers


def _flat(vector: Params) -> np.ndarray:
  """Returns all floating entries [d] in float32 or wider."""
  leaves = [np.asarray(widened(x)).ravel() for x in jax.tree.leaves(vector) if is_floating(x)]
  if not sum(x.size for x in leaves):
    raise InputError("the task vectors have no floating entries; there is nothing to merge")
  return np.concatenate(leaves)


def _unflat(flat: np.ndarray, like: Params) -> Params:
  """Inverts `_flat`, with zeros where leaves are not floating."""
  start = 0

  def leaf(x: Array) -> Array:
    nonlocal start
    if not is_floating(x):
      return jnp.zeros_like(x)
    part = flat[start : start + jnp.size(x)]
    start += jnp.size(x)
    return jnp.asarray(part.reshape(jnp.shape(x)), jnp.result_type(x))

  return jax.tree.map(leaf, like)


def _trimmed(flat: np.ndarray, density: float) -> np.ndarray:
  """Keeps the entries of largest magnitude, the first of equal ones, and zeros the others. No full sort."""
  count = max(1, round(density * flat.size))
  magnitudes = np.abs(flat)
  threshold = np.partition(magnitudes, flat.size - count)[flat.size - count]
  kept = magnitudes > threshold
  ties_at = np.flatnonzero(magnitudes == threshold)
  kept[ties_at[: count - int(kept.sum())]] = True
  return np.where(kept, flat, 0)
