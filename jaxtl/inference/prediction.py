"""The classes of one image with their probabilities."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxtl.data.class_names import display_name


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Prediction:
  """The prediction of a network for one image.

  Attributes:
    name: the image's file, or its place in the list.
    classes: the class names, in the order of the logits.
    logits: float [C].
    probabilities: float32 [C], the softmax of the logits, as the confidence of `jaxtl eval`.
  """

  name: str
  classes: tuple[str, ...]
  logits: np.ndarray
  probabilities: np.ndarray

  @property
  def label(self) -> str:
    """The most probable class."""
    return self.classes[int(np.argmax(self.logits))]

  @property
  def probability(self) -> float:
    """The probability of `label`."""
    return float(self.probabilities[int(np.argmax(self.logits))])

  def top(self, count: int = 5) -> list[tuple[str, float]]:
    """Returns the `count` most probable classes with their probabilities, most probable first."""
    # By logits, since probabilities may underflow to zero; equal ones in the order of the classes.
    order = np.argsort(-self.logits.astype(np.float32), kind="stable")[:count]
    return [(self.classes[i], float(self.probabilities[i])) for i in order]

  def __repr__(self) -> str:
    best = ", ".join(f"{display_name(name)} {probability:.1%}" for name, probability in self.top(3))
    return f"Prediction({self.name}: {best})"
