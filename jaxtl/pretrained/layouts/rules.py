"""Rules that convert tensors in another layout to one of our leaves, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Rule:
  """A conversion between one of our arrays and some of theirs.

  Attributes:
    text: description in the mapping table.
    to_ours: (their arrays, our shape) -> our array; raises ValueError or returns an array of another shape if
      they do not fit.
    to_theirs: (our array, number of theirs) -> their arrays; None if the layout can only be read.
  """

  text: str
  to_ours: Callable[[Sequence[np.ndarray], Shape], np.ndarray]
  to_theirs: Callable[[np.ndarray, int], Sequence[np.ndarray]] | None = None


def one(
  text: str, to_ours: Callable[[np.ndarray], np.ndarray], to_theirs: Callable[[np.ndarray], np.ndarray]
) -> Rule:
  """Returns a rule between one array and one array."""
  return Rule(text, lambda theirs, _: to_ours(theirs[0]), lambda ours, _: [to_theirs(ours)])


def joined(part: Rule) -> Rule:
  """Returns a rule that concatenates their arrays, each converted by `part`, along the last axis.

  Query, key and value are an example.
  """

  def to_ours(theirs: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    width = (*shape[:-1], shape[-1] // len(theirs))
    return np.concatenate([part.to_ours([array], width) for array in theirs], axis=-1)

  def to_theirs(ours: np.ndarray, count: int) -> list[np.ndarray]:
    assert part.to_theirs is not None
    return [part.to_theirs(array, 1)[0] for array in np.split(ours, count, axis=-1)]

  return Rule(f"side by side, {part.text}", to_ours, to_theirs if part.to_theirs else None)


def leading(ones: int) -> Rule:
  """Returns a rule that prepends `ones` axes of length 1."""
  return one(
    f"{ones} axes before", lambda x: x.reshape((1,) * ones + x.shape), lambda x: x.reshape(x.shape[ones:])
  )


SAME = one("as it is", lambda x: x, lambda x: x)
CONV = one("OIHW -> HWIO", lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
LINEAR = one("OI -> IO", lambda x: x.transpose(1, 0), lambda x: x.transpose(1, 0))

# The logits of a distilled transformer are the mean of two classifiers, which equals one classifier of both
# tokens.
TWO_KERNELS = Rule(
  "halves stacked, OI -> IO",
  lambda theirs, _: np.concatenate([x.transpose(1, 0) / 2 for x in theirs]),
  lambda ours, count: [x.transpose(1, 0) * 2 for x in np.split(ours, count)],
)
TWO_BIASES = Rule("mean", lambda theirs, _: (theirs[0] + theirs[1]) / 2, lambda ours, count: [ours] * count)


def per_head(*, out: bool) -> Rule:
  """Returns a rule that merges the head axis of Flax's attention into [D, D].

  Theirs are [D, H, h] for inputs and [H, h, D] for `out`.
  """

  def to_ours(theirs: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    x = theirs[0]
    if x.ndim != len(shape) + 1:
      raise ValueError(x.shape)
    return x.reshape(-1, x.shape[-1]) if out else x.reshape(*x.shape[: len(shape) - 1], -1)

  return Rule("heads merged", to_ours)


def constant(value: float) -> Rule:
  """Returns a rule that fills ours with `value`, for layouts that fold normalisation into convolutions."""
  return Rule(f"all {value:g}", lambda _, shape: np.full(shape, value, np.float32))
