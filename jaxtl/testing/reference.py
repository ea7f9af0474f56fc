"""A loss against an evaluation in float64, over all logits that training meets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxtl.testing.claims import Claim, from_extra

# Logits [B, K] and labels [B] -> losses [B] and, if it has them, their gradients [B, K]; all NumPy.
Reference = Callable[[np.ndarray, np.ndarray], np.ndarray | tuple[np.ndarray, np.ndarray]]

SMALLEST, LARGEST = 1e-3, 1e3  # the scale of the logits that training meets
PATTERNS = ("gaussian", "ties", "leading", "trailing", "bfloat16")
# By how much the true class leads or trails: softmax probabilities round to 0 or 1 on the way.
_GAPS = (0.5, 5, 10, 17, 40, 80, 86, 200, 1e3)


def draw_logits(
  seed: int, *, num_classes: int, scale: float, pattern: str, batch: int = 4
) -> tuple[np.ndarray, np.ndarray]:
  """Draws logits and labels that stress one regime of a loss.

  Args:
    seed: of the generator.
    num_classes: K.
    scale: standard deviation of the logits.
    pattern: one of `PATTERNS`. "ties" has three values only, "leading" and "trailing" put the true class
      above or below all others by a gap of 0.5 to 1000, "bfloat16" rounds.
    batch: B.

  Returns:
    float32 [B, K] logits and int [B] labels.
  """
  rng = np.random.default_rng(seed)
  logits = (scale * rng.standard_normal((batch, num_classes))).astype(np.float32)
  labels = rng.integers(0, num_classes, batch)
  gaps = rng.choice(_GAPS, batch).astype(np.float32)
  if pattern == "ties":
    logits = np.round(logits / np.float32(scale)).clip(-1, 1) * np.float32(scale)
  if pattern == "leading":
    logits[np.arange(batch), labels] = logits.max(axis=1) + gaps
  if pattern == "trailing":
    logits[np.arange(batch), labels] = logits.min(axis=1) - gaps
  if pattern == "bfloat16":
    logits = np.asarray(jnp.asarray(logits, jnp.bfloat16).astype(jnp.float32))
  return logits, labels


def over_logits(
  check: Callable[..., None], *, num_classes: int, patterns: Sequence[str] = PATTERNS, examples: int = 60
) -> None:
  """Calls `check(logits, labels, where)` on what hypothesis draws: scales from 1e-3 to 1e3, every pattern.

  Args:
    check: (float32 [4, K], int [4], what these are in words); raises if something is wrong.
    num_classes: K.
    patterns: as in `draw_logits`.
    examples: how many to draw.

  Raises:
    InputError: hypothesis is not installed.
  """
  with from_extra():
    import hypothesis
    from hypothesis import strategies

  @hypothesis.settings(max_examples=examples, deadline=None, database=None)
  @hypothesis.given(
    seed=strategies.integers(0, 2**32 - 1),
    exponent=strategies.floats(math.log10(SMALLEST), math.log10(LARGEST)),
    pattern=strategies.sampled_from(patterns),
  )
  def run(seed: int, exponent: float, pattern: str) -> None:
    scale = 10**exponent
    logits, labels = draw_logits(seed, num_classes=num_classes, scale=scale, pattern=pattern)
    check(logits, labels, f"logits of the pattern {pattern!r}, scale {scale:.3g}, seed {seed}")

  run()


def check_against(
  claim: Claim,
  found: tuple[Any, Any],
  expected: np.ndarray | tuple[np.ndarray, np.ndarray],
  where: str,
  *,
  rtol: float,
  gradient_floor: float | np.ndarray = 0.0,
) -> None:
  """Fails unless a loss, and its gradient class by class, have the digits of the float64 ones.

  Args:
    claim: names the loss.
    found: losses [B] and gradients [B, K].
    expected: the same in float64, or the losses alone.
    where: the input in words.
    rtol: relative difference.
    gradient_floor: the additional error that the gradient may have, for parts that cancel.
  """
  losses, slopes = expected if isinstance(expected, tuple) else (expected, None)
  # float32's smallest numbers are lost, once for each class.
  tiny = 1e-37 * np.shape(found[1])[-1]
  claim.close(found[0], losses, f"the loss of {where}", rtol=rtol, atol=tiny)
  if slopes is not None:
    claim.close(found[1], slopes, f"the gradient of {where}", rtol=rtol, atol=gradient_floor + tiny)
