"""Cross-entropy and the losses that a study of transfer compares it with.

Every loss here is `(logits [B, K], labels, *, ...) -> float32 [B]`, with labels int [B], or float [B, K], a
distribution over the classes. It is computed in float32 whatever the type of the logits. Its value and
gradient are finite for all finite logits for which the mathematics stays in the range of float32. An integer
label outside [0, K) cannot raise under `jit`: the loss of that example is NaN. Logits and labels that do not
fit raise `DataError`, a hyperparameter out of its range `ConfigError`; hyperparameters are Python numbers.

"Kornblith et al." is Kornblith, Chen, Lee, Norouzi: Why Do Better Loss Functions Lead to Less Transferable
Features?, 2021, arXiv 2010.16402. Its tuned values for ResNet-50 on ImageNet, the defaults here, are those of
the authors' released code (google-research, loss_functions_transfer) for loading their checkpoints.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxtl.errors import ConfigError
from jaxtl.losses import labels as targets
from jaxtl.types import Array

# A score that gets no weight in a softmax, and whose differences stay in the range of float32.
FAR_BELOW = -1e30


def softmax_cross_entropy(logits: Array, labels: Array, *, label_smoothing: float = 0.0) -> Array:
  """Computes softmax cross-entropy, -sum_k t_k log softmax(s)_k.

  With integer labels, value and gradient keep their precision however far the true class leads: a loss of
  1e-30 is returned as such and not as 0. With a distribution that is nearly certain, this precision is lost.

  >>> import jax.numpy as jnp
  >>> softmax_cross_entropy(jnp.array([[2.0, 0.0], [0.0, 0.0]]), jnp.array([0, 1])).round(4).tolist()
  [0.12690000236034393, 0.6930999755859375]

  Args:
    logits: [B, K] class scores.
    labels: int [B] or float [B, K].
    label_smoothing: epsilon in [0, 1]; t becomes (1 - epsilon) t + epsilon / K, spread over all K classes,
      the convention of torchvision and timm. Kornblith et al. use 0.1.

  Returns:
    float32 [B].
  """
  if not 0 <= label_smoothing <= 1:
    raise ConfigError(f"label_smoothing is {label_smoothing}; write a number from 0 to 1")
  logits, labels = targets.prepare(logits, labels)
  if not targets.are_classes(labels):
    return _cross_entropy(logits, optax.smooth_labels(labels, label_smoothing))
  loss = _cross_entropy(logits, labels)
  return loss + _smoothing(logits, labels, label_smoothing) if label_smoothing else loss


def multiclass_hinge(logits: Array, labels: Array) -> Array:
  """Computes Crammer and Singer's hinge, max(0, 1 + max_{k != y} s_k - s_y).

  Args:
    logits: [B, K] class scores.
    labels: int [B]; or float [B, K], for which the loss is sum_c t_c L(s, c) and costs K evaluations.

  Returns:
    float32 [B].

  Crammer, Singer: On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines, JMLR 2001.
  """
  logits, labels = targets.prepare(logits, labels)
  if targets.are_classes(labels):
    loss = optax.losses.multiclass_hinge_loss(logits, labels)
    return jnp.where(targets.valid(labels, logits.shape[-1]), loss, jnp.nan)
  return targets.over_classes(optax.losses.multiclass_hinge_loss, logits, labels)


def squared_hinge(logits: Array, labels: Array, *, margin: float = 1.0) -> Array:
  """Computes the one-vs-rest squared hinge, sum_k t_k max(0, m - s_k)^2 + (1 - t_k) max(0, m + s_k)^2.

  Args:
    logits: [B, K] class scores.
    labels: int [B] or float [B, K].
    margin: m > 0; 1 in the paper.

  Returns:
    float32 [B].

  Tang: Deep Learning using Linear Support Vector Machines, 2013, arXiv 1306.0239.
  """
  margin = targets.positive("margin", margin)
  logits, labels = targets.prepare(logits, labels)
  t = targets.distribution(labels, logits.shape[-1])
  return _sum_of_squares(t, margin - logits) + _sum_of_squares(1 - t, margin + logits)


def logit_penalty(logits: Array, labels: Array, *, penalty: float = 6e-4) -> Array:
  """Computes softmax cross-entropy plus (beta / 2) sum_k s_k^2.

  Args:
    logits: [B, K] class scores.
    labels: int [B] or float [B, K].
    penalty: beta > 0; 6e-4 in Kornblith et al.

  Returns:
    float32 [B].
  """
  penalty = targets.positive("penalty", penalty)
  logits, labels = targets.prepare(logits, labels)
  return _cross_entropy(logits, labels) + jnp.sum((math.sqrt(penalty / 2) * logits) ** 2, axis=-1)


def logit_norm(logits: Array, labels: Array, *, temperature: float = 0.04) -> Array:
  """Computes softmax cross-entropy of s / (temperature |s|), which depends only on the direction of s.

  All-zero logits have no direction: their loss is log K and their gradient is zero.

  Args:
    logits: [B, K] class scores.
    labels: int [B] or float [B, K].
    temperature: tau > 0; 0.04 in Kornblith et al. ("logit normalization").

  Returns:
    float32 [B].
  """
  temperature = targets.positive("temperature", temperature)
  logits, labels = targets.prepare(logits, labels)
  return _cross_entropy(_direction(logits), labels, temperature)


def cosine_softmax(logits: Array, labels: Array, *, temperature: float = 0.05) -> Array:
  """Computes softmax cross-entropy of s / temperature, for a head whose logits are cosine similarities.

  Args:
    logits: [B, K] cosines between the features and the class weights, as a cosine head returns them. The loss
      does not normalise: for other scores it is cross-entropy at a temperature.
    labels: int [B] or float [B, K].
    temperature: tau > 0; 0.05 in Kornblith et al.

  Returns:
    float32 [B].
  """
  temperature = targets.positive("temperature", temperature)
  logits, labels = targets.prepare(logits, labels)
  return _cross_entropy(logits, labels, temperature)


def sigmoid_cross_entropy(logits: Array, labels: Array, *, logit_shift: float = 0.0) -> Array:
  """Computes the binary cross-entropy of each class against the rest, summed over the classes.

  Args:
    logits: [B, K] class scores.
    labels: int [B] or float [B, K].
    logit_shift: subtracted from all logits first. The code of Kornblith et al. uses log K, so that a network
      with logits near zero starts with probabilities near 1 / K; with 0 it starts with a loss of K log 2.

  Returns:
    float32 [B].
  """
  if not math.isfinite(logit_shift):
    raise ConfigError(f"logit_shift is {logit_shift}; write a finite number")
  logits, labels = targets.prepare(logits, labels)
  t = targets.distribution(labels, logits.shape[-1])
  return jnp.sum(optax.sigmoid_binary_cross_entropy(logits - logit_shift, t), axis=-1)


def poly1(logits: Array, labels: Array, *, epsilon: float = 2.0) -> Array:
  """Computes cross-entropy plus epsilon (1 - p_y), p = softmax(s); for a distribution, sum_c t_c (1 - p_c).

  Args:
    logits: [B, K] class scores.
    labels: int [B] or float [B, K].
    epsilon: weight of the first polynomial term; 2 for ImageNet classification in the paper.

  Returns:
    float32 [B].

  Leng, Tan, Liu, Cubuk, Shi, Cheng, Anguelov: PolyLoss: A Polynomial Expansion Perspective of Classification
  Loss Functions, 2022, arXiv 2204.12511.
  """
  if not math.isfinite(epsilon):
    raise ConfigError(f"epsilon is {epsilon}; write a finite number")
  logits, labels = targets.prepare(logits, labels)
  if targets.are_classes(labels):
    loss = _cross_entropy(logits, labels)
    return loss - epsilon * jnp.expm1(-loss)  # 1 - p_y, without the cancellation where p_y is near 1
  missing = -jnp.expm1(jax.nn.log_softmax(logits))
  return _cross_entropy(logits, labels) + epsilon * targets.expectation(labels, missing)


def focal(logits: Array, labels: Array, *, gamma: float = 2.0, alpha: float | None = 0.25) -> Array:
  """Computes the focal loss of each class against the rest, -alpha_t (1 - p_t)^gamma log p_t, and sums them.

  Args:
    logits: [B, K] class scores, each the logit of its own sigmoid.
    labels: int [B]; or float [B, K], for which the loss is sum_c t_c L(s, c), unlike optax's, which puts the
      expected probability under the exponent.
    gamma: exponent >= 0 that down-weights well-classified classes; 2 in the paper.
    alpha: weight in [0, 1] of the positive class, 1 - alpha of the others; 0.25 in the paper. With None, all
      weights are 1.

  Returns:
    float32 [B].

  Lin, Goyal, Girshick, He, Dollar: Focal Loss for Dense Object Detection, 2017, arXiv 1708.02002.
  """
  if not 0 <= gamma < float("inf"):
    raise ConfigError(f"gamma is {gamma}; write a finite number of 0 or more")
  if alpha is not None and not 0 <= alpha <= 1:
    raise ConfigError(f"alpha is {alpha}; write a number from 0 to 1, or None for no weights")
  logits, labels = targets.prepare(logits, labels)
  t = targets.distribution(labels, logits.shape[-1])
  one, rest = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
  return targets.expectation(one * t, focal_term(logits, gamma)) + targets.expectation(
    rest * (1 - t), focal_term(-logits, gamma)
  )


def mixed(
  loss: Callable[[Array, Array], Array], logits: Array, labels: Array, labels_b: Array, weight: Array
) -> Array:
  """Computes weight * loss(logits, labels) + (1 - weight) * loss(logits, labels_b), for mixup and cutmix.

  It equals the loss of the mixed distribution for every loss that is linear in its labels, as all here are,
  at the cost of two evaluations.

  Args:
    loss: (logits, labels) -> [B].
    logits: [B, K] class scores.
    labels, labels_b: int [B], the two classes of each example.
    weight: [B] or a scalar, the share of `labels`, in [0, 1].

  Returns:
    float32 [B].
  """
  weight = jnp.asarray(weight, jnp.float32)
  return weight * loss(logits, labels) + (1 - weight) * loss(logits, labels_b)


def _cross_entropy(logits: Array, labels: Array, temperature: float = 1.0) -> Array:
  """Computes cross-entropy of float32 logits / temperature; NaN for an integer that is not a class."""
  if targets.are_classes(labels):
    loss, _ = _loss_and_slopes(logits, labels, temperature)
    return jnp.where(targets.valid(labels, logits.shape[-1]), loss, jnp.nan)
  # Only differences count: taken first, they keep the division from overflowing where they do not.
  best = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
  return targets.expectation(labels, -jax.nn.log_softmax((logits - best) / temperature))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _loss_and_slopes(logits: Array, labels: Array, temperature: float) -> tuple[Array, Array]:
  """Returns cross-entropy L [B] of x = s / temperature and its slopes in x [B, K]: p_k, and p_y - 1 for y.

  With M = max(0, max_k x_k - x_y), L = M + log(exp(-M) + sum_{k != y} exp(x_k - x_y - M)), where all terms
  are positive. Where the true class leads, M = 0 and L is log1p of the sum over the other classes; p_y - 1
  is computed from that sum, too. The sum is taken relative to the best of the others: many terms that each
  are 0 in float32 may have a sum that is not.
  """
  is_label = targets.is_label(labels, logits.shape[-1])
  # A gather is quicker than a masked sum; its transpose, a scatter, is never taken.
  true = jnp.take_along_axis(logits, labels[:, None], axis=-1, mode="clip")
  second = jnp.max(jnp.where(is_label, -jnp.inf, logits), axis=-1, keepdims=True)
  best = jnp.maximum(second, true)
  behind = (true - best) / temperature  # -M
  share = jnp.exp((second - best) / temperature)
  others = jnp.where(is_label, 0.0, jnp.exp((logits - second) / temperature))
  rest = share * jnp.sum(others, axis=-1, keepdims=True)
  loss = jnp.log1p(rest + jnp.expm1(behind)) - behind
  return loss[:, 0], jnp.where(is_label, -rest, share * others) / (rest + jnp.exp(behind))


@_loss_and_slopes.defjvp
def _differentiate(temperature: float, primals: tuple, tangents: tuple) -> tuple:
  """Computes dL = sum_k slope_k dx_k and dp_k = p_k (dx_k - dx_y - dL), closed forms that hold at any order.

  They are written out because autodiff computes the true class's slope as softmax - 1, which rounds to 0.
  """
  logits, labels = primals
  loss, slopes = _loss_and_slopes(logits, labels, temperature)
  dx = tangents[0] / temperature
  dloss = jnp.sum(slopes * dx, axis=-1, keepdims=True)
  is_label = targets.is_label(labels, logits.shape[-1])
  dothers = jnp.where(is_label, 0.0, slopes * (dx - targets.true_score(dx, labels) - dloss))
  dslopes = jnp.where(is_label, -jnp.sum(dothers, axis=-1, keepdims=True), dothers)
  return (loss, slopes), (dloss[:, 0], dslopes)


def _smoothing(logits: Array, labels: Array, epsilon: float) -> Array:
  """Returns epsilon (s_y - mean s), the term of label smoothing, from differences that no offset swamps."""
  gaps = targets.true_score(logits, labels) - logits
  return jnp.sum(epsilon / logits.shape[-1] * gaps, axis=-1)


def _sum_of_squares(weights: Array, gaps: Array) -> Array:
  """Returns sum_k weights_k max(0, gaps_k)^2; a weight of zero also masks a gap whose square overflows."""
  return jnp.sum(weights * jnp.where(weights == 0, 0.0, jax.nn.relu(gaps)) ** 2, axis=-1)


def focal_term(x: Array, gamma: float) -> Array:
  """Returns -(1 - p)^gamma log p, with p = sigmoid(x)."""
  # Below -100 the weight (1 - p)^gamma is 1; the wheres keep its slope of 0 from meeting an overflow.
  flat = x < -100
  weight = jnp.where(flat, 1.0, jnp.exp(-gamma * jax.nn.softplus(jnp.where(flat, 0.0, x))))
  return weight * jax.nn.softplus(-x)


def _direction(x: Array) -> Array:
  """Returns x / |x| for each row, without overflow or underflow in the squares; 0 for a row of zeros."""
  largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
  # Clipped, because the reciprocal of a number near the ends of the range is not a normal number.
  scaled = x / jnp.clip(largest, 2.0**-90, 2.0**90)
  # A row of zeros takes the constant 1: the square root's slope at 0 would make its gradient NaN.
  square = jnp.where(largest == 0, 1.0, jnp.sum(scaled**2, axis=-1, keepdims=True))
  return scaled / jnp.sqrt(square)


def grouped_cross_entropy(logits: Array, labels: Array, *, sizes: tuple[int, ...] | None = None) -> Array:
  """Computes softmax cross-entropy among the classes of the label's group, for several tasks on one head.

  Args:
    logits: [B, K] class scores, concatenated over the groups.
    labels: int [B]; or float [B, K], for which the loss is sum_c t_c L(s, c) and costs K evaluations.
    sizes: number of classes of each group, with the sum K; None means one group of all classes.

  Returns:
    float32 [B].
  """
  logits, labels = targets.prepare(logits, labels)
  sizes = (logits.shape[-1],) if sizes is None else tuple(sizes)
  if sum(sizes) != logits.shape[-1] or min(sizes) < 1:
    raise ConfigError(f"sizes are {sizes}; write positive numbers with the sum {logits.shape[-1]}")
  group = jnp.repeat(jnp.arange(len(sizes)), jnp.array(sizes), total_repeat_length=sum(sizes))

  def among(logits: Array, labels: Array) -> Array:
    # A label outside [0, K) is clipped here, and `_cross_entropy` gives NaN for it.
    own = group[None, :] == jnp.take(group, labels, mode="clip")[:, None]
    return _cross_entropy(jnp.where(own, logits, FAR_BELOW), labels)

  return among(logits, labels) if targets.are_classes(labels) else targets.over_classes(among, logits, labels)
