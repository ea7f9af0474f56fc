"""The network that is fine-tuned and patched."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import Spec
from jaxtl.train.experiment import make_model
from jaxtl.train.image_size import at_size, fitted
from jaxtl.types import Params


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
  """A checkpoint without its head, for images of one size.

  Attributes:
    start: the checkpoint.
    spec: makes its model for those images.
    params: its parameters without the head, which are interpolated.
    batch_stats: its normalisation statistics.
    head: name of the head among a model's parameters.
    side: side of the images, in pixels.
  """

  start: Weights
  spec: Spec
  params: Params
  batch_stats: Params
  head: str
  side: int

  @classmethod
  def of(cls, start: Weights, *, side: int, trust: bool) -> Backbone:
    spec = start.model_spec(trust=trust)
    model, params = fitted(spec, start, side)
    body = {name: part for name, part in params.items() if name != model.head}
    return cls(start, at_size(spec, side), body, start.batch_stats, model.head, side)

  def model(self, num_classes: int) -> Any:
    return make_model(self.spec, num_classes=num_classes)

  def weights(self, params: Params, batch_stats: Params, head: Params, classes: Sequence[str]) -> Weights:
    """Returns the whole model of one task in the form of a checkpoint."""
    config = {**self.start.config, "classes": list(classes)}
    return Weights({**params, self.head: head}, batch_stats, config, self.start.path)
