"""Diagnosis of layers: how much the loss on held-out images would fall if only one layer changed.

Delta L_l is the fall, and kappa_l = Delta L_l / |Delta w_l|^2 is the corresponding curvature. The best change
of a layer is found along the gradient of its own weights, by an exact one-dimensional search. A minimum over
all its weights would fit the few thousand images and not the task. Images are a fixed subset, without
augmentation. Normalisation uses the stored statistics.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from jaxtl import config as config_lib
from jaxtl import curvature, tree
from jaxtl import weights as weights_lib
from jaxtl.errors import DataError, NonFiniteError, NonFiniteLossError
from jaxtl.measure import network as networks
from jaxtl.measure.images import draw
from jaxtl.measure.layer_inputs import LayerInputs, resolution
from jaxtl.train import sharding
from jaxtl.train.inputs import Data
from jaxtl.train.runtime import Runtime
from jaxtl.types import ExampleLoss, Model, Params, Row
from jaxtl.weights import Choice, Descent, Finding, Group

# Range of the first length of a further descent step, in norms of the weights.
_FIRST = (1e-6, 1.0)


@dataclasses.dataclass(frozen=True)
class Diagnosis:
  """The settings of a layer diagnosis.

  Attributes:
    data: held-out images, with evaluation transforms.
    num_examples: number of images, drawn evenly over the classes.
    seed: seed of the draw and of the halves.
    groups: defines the layers by regexes of block names, as in `weights.layer_groups`; None: every block, and
      a DenseNet's dense layers by stage.
    cross_fit: takes the direction from one half of every class's images and the losses from the other, so
      that the measured fall is not what the direction was fitted to. Without it, part of Delta L is the fit
      to a few images.
    refine_steps: further steps of steepest descent in the same layer, each with its own search. More of them
      fit the images rather than the layer.
    cross_check: also computes half the Rayleigh quotient of the layer's Hessian along its gradient, which
      equals kappa if the loss is quadratic.
    choose_by: the curvature by which the layer to perturb is chosen.
    cache: caches the inputs of the current layer on the host; False runs the whole network at every trial.
  """

  data: Data
  num_examples: int = 1000
  seed: int = 0
  groups: tuple[str, ...] | None = None
  cross_fit: bool = False
  refine_steps: int = 0
  cross_check: bool = False
  choose_by: Literal["kappa", "kappa_rel"] = "kappa"
  cache: bool = True

  def __post_init__(self) -> None:
    config_lib.require(
      num_examples=(self.num_examples, self.num_examples >= 1, "at least 1"),
      groups=(self.groups, self.groups is None or len(self.groups) > 0, "a list of at least one regex"),
      refine_steps=(self.refine_steps, self.refine_steps >= 0, "0 or more"),
    )


def diagnose(
  diagnosis: Diagnosis,
  model: Model,
  params: Params,
  batch_stats: Params,
  loss: ExampleLoss,
  runtime: Runtime,
) -> list[Row]:
  """Measures every layer of a network, and determines which one to perturb and which one to update.

  One pass computes the gradient for all layers. Then, from the first layer to the last, about nine passes run
  over the layers above. A fall below the rounding of the loss counts as zero.

  Args:
    diagnosis: the images and the search.
    model, params, batch_stats: the network.
    loss: (features, batch) -> [B].
    runtime: the devices and the status line.

  Returns:
    A row of the kind layer_diagnosis for each layer in forward order. `delta_loss`, `kappa`, `kappa_rel` and
    `step` are those of `weights.Finding`; kappa is None where the step is 0. `perturb` and `update` mark the
    layers of `weights.choose`. `excluded` is "small" if that choice left the layer out.

  Raises:
    ConfigError: the model has no blocks, or the groups do not fit it.
    InputError: a parameter or a statistic is not finite; the message names it.
    NonFiniteError: the loss or a gradient is not finite at the weights, or after a step in a layer.
    DataError: there are no images, or with `cross_fit` no class has two images.
  """
  networks.check_finite(params, batch_stats)
  groups = weights_lib.layer_groups(model, params, groups=diagnosis.groups)
  layers = _Layers.of(diagnosis, model, params, batch_stats, loss, runtime)
  gradient = layers.gradient()
  findings = []
  for number, group in enumerate(groups, start=1):
    found = layers.finding(group, gradient)
    runtime.progress.note(
      f"layer {number} of {len(groups)}, {group.name}: the loss falls by {found.delta:.3g}"
    )
    findings.append(found)
  choice = weights_lib.choose(findings, by=diagnosis.choose_by)
  return [_row(found, choice, diagnosis) | layers.images for found in findings]


def chosen(rows: list[Row]) -> tuple[str | None, str | None]:
  """Returns the names of the layers to perturb and to update, from the rows of `diagnose`.

  A name is None if no layer qualifies.
  """
  names = [
    next((row["layer"] for row in rows if row.get("kind") == "layer_diagnosis" and row[key]), None)
    for key in ("perturb", "update")
  ]
  return names[0], names[1]


@dataclasses.dataclass(frozen=True, eq=False)
class _Layers:
  """A network on the devices, and the inputs of its layers.

  Attributes:
    diagnosis: the search.
    params: the parameters of the network.
    loss: the per-example loss.
    direction, value: the images for the gradient and those for the losses; the same images without
      cross-fitting.
    images: what the numbers depend on in addition to the weights.
  """

  diagnosis: Diagnosis
  params: Params
  loss: ExampleLoss
  direction: LayerInputs
  value: LayerInputs
  images: Row

  @classmethod
  def of(
    cls,
    diagnosis: Diagnosis,
    model: Model,
    params: Params,
    batch_stats: Params,
    loss: ExampleLoss,
    runtime: Runtime,
  ) -> _Layers:
    batches, images = _drawn(diagnosis, runtime)
    params = sharding.put_replicated(params, runtime.mesh)
    stats = sharding.put_replicated(batch_stats, runtime.mesh)
    inputs = [LayerInputs(model, params, stats, part, runtime) for part in batches]
    return cls(diagnosis, params, loss, inputs[0], inputs[-1], images)

  def gradient(self) -> Params:
    """Returns the gradient of the mean loss in all layers, from one pass."""
    everything = Group("all", tuple(self.params), tree.size(self.params))
    return self._gradient(everything, None)

  def finding(self, group: Group, gradient: Params) -> Finding:
    """Searches in one layer, whose first block is not below that of the previous one."""
    if self.diagnosis.cache:
      self.value.move_to(group.blocks[0])
      if self.diagnosis.refine_steps:
        self.direction.move_to(group.blocks[0])
    loss_fn, own, batches = self.value.loss_of(group, self.loss)
    slope = {block: gradient[block] for block in own}
    norm, steepness = float(tree.norm(own)), float(tree.norm(slope))

    def descend(place: Params, direction: Params, **first: float) -> Descent:
      def along(t: float) -> float:
        return float(weights_lib.surface(loss_fn, place, batches, [direction], [[-t]])[0])

      return weights_lib.descend(along, scale=norm or 1.0, resolution=resolution(own), **first)

    if not steepness:
      start = curvature.loss_over_batches(loss_fn, batches)(own)
      return Finding(group, norm, 0.0, start, 0.0, 0.0, unbounded=False, unimodal=True, num_evaluations=1)
    direction = weights_lib.along(slope, own)
    down = descend(own, direction)
    found = Finding(group, norm, steepness, **dataclasses.asdict(down))
    if self.diagnosis.cross_check:
      product = curvature.hvp_over_batches(loss_fn, own, batches)(direction)
      found = dataclasses.replace(found, kappa_hvp=float(tree.dot(direction, product)) / 2)
    if self.diagnosis.refine_steps and down.step and not down.unbounded:
      found = self._refined(found, own, weights_lib.moved(own, [direction], [-down.step]), descend)
    return found

  def _refined(self, found: Finding, own: Params, place: Params, descend: Callable[..., Descent]) -> Finding:
    """Returns the finding after further steps of steepest descent from `place`.

    The first of them starts with the length of the previous step.
    """
    length = found.step / (found.weight_norm or 1.0)
    for _ in range(self.diagnosis.refine_steps):
      slope = self._gradient(found.group, place)
      if not float(tree.norm(slope)):
        break
      direction = weights_lib.along(slope, place)
      down = descend(place, direction, first=min(max(length, _FIRST[0]), _FIRST[1]))
      found = dataclasses.replace(found, num_evaluations=found.num_evaluations + down.num_evaluations)
      delta = found.start - (down.start - down.delta)
      if not down.step or delta <= found.delta:
        break
      place, length = (
        weights_lib.moved(place, [direction], [-down.step]),
        down.step / (found.weight_norm or 1),
      )
      found = dataclasses.replace(
        found,
        delta=delta,
        step=float(tree.norm(tree.sub(place, own))),
        unbounded=down.unbounded,
        unimodal=found.unimodal and down.unimodal,
      )
      if down.unbounded:
        break
    return found

  def _gradient(self, group: Group, place: Params | None) -> Params:
    """Returns the gradient of the mean loss over the direction images, at `place` or at the weights."""
    loss_fn, own, batches = self.direction.loss_of(group, self.loss)
    slope = curvature.gradient_over_batches(loss_fn, batches)
    at = "at the weights" if place is None else f"after a step of descent in the layer {group.name!r}"
    try:
      gradient = slope(own if place is None else place)[1]
    except NonFiniteLossError as error:
      raise NonFiniteError(f"{at} {error}") from error
    if path := tree.first_nonfinite(gradient):
      raise NonFiniteError(f"{at} the gradient of {path!r} is not finite; there is no direction of descent")
    return gradient


def _drawn(diagnosis: Diagnosis, runtime: Runtime) -> tuple[list[list[Mapping[str, np.ndarray]]], Row]:
  """Returns the images as one part or as two halves, and a row that identifies them."""
  parts = ((0.0, 0.5), (0.5, 1.0)) if diagnosis.cross_fit else ((0.0, 1.0),)
  which: Any = dict(num_examples=diagnosis.num_examples, seed=diagnosis.seed)
  try:
    found = [draw(diagnosis.data, runtime, part=part, **which) for part in parts]
  except DataError as error:
    if not diagnosis.cross_fit:
      raise
    raise DataError(f"{error}; cross_fit needs two images of a class, so give more num_examples") from error
  total = sum(images["num_examples"] for _, images in found)
  return [batches for batches, _ in found], {**found[0][1], "num_examples": total}


def _row(found: Finding, choice: Choice, diagnosis: Diagnosis) -> Row:
  name = found.group.name
  row: Row = {
    "kind": "layer_diagnosis",
    "layer": name,
    "layer_blocks": list(found.group.blocks),
    "layer_parameters": found.group.num_parameters,
    "weight_norm": found.weight_norm,
    "gradient_norm": found.gradient_norm,
    "mean_loss": found.start,
    "delta_loss": found.delta,
    "step": found.step,
    "relative_step": found.relative_step,
    "kappa": found.kappa,
    "kappa_rel": found.kappa_rel,
    "unbounded": found.unbounded,
    "unimodal": found.unimodal,
    "num_evaluations": found.num_evaluations,
    "excluded": "small" if name in choice.small else "",
    "perturb": name == choice.perturb,
    "update": name == choice.update,
    "cross_fit": diagnosis.cross_fit,
    "refine_steps": diagnosis.refine_steps,
    "choose_by": diagnosis.choose_by,
  }
  return row if found.kappa_hvp is None else row | {"kappa_hvp": found.kappa_hvp}
