"""The contract of a model."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl import tree
from jaxtl.testing.claims import Claim, describe
from jaxtl.types import Array, Model, Params

SHUFFLED = np.array([2, 0, 3, 1])
CUTS = 3  # how many suffixes of a network are run from their own prefix


@dataclasses.dataclass(frozen=True)
class _ModelCase:
  """A model under test, its variables, and images [4, H, W, 3] for it."""

  model: Model
  params: Params
  batch_stats: Params
  images: Array

  def claim(self, name: str, unless: str = "") -> Claim:
    return Claim(self.model.name, name, unless)


def check_model(
  model: Model,
  *,
  num_classes: int,
  image_size: int = 32,
  variables: tuple[Params, Params] | None = None,
  stages: int = 3,
  form: bool = True,
  evaluation: bool = True,
  training: bool = True,
  cuts: bool = True,
) -> None:
  """Checks that a model keeps the contract of `jaxtl.types.Model`.

  Only `evaluation`, `training` and `cuts` run it.

  Args:
    model: a small one, unless only its form is checked; running takes as long as its blocks take to compile.
    num_classes: of its head.
    image_size: side of the images, in pixels.
    variables: (params, batch_stats) to run with; None, the default, draws them by `model.init`.
    stages: how many `stage` features [B, H, W, C] it has at least. 0 for a network without feature maps.
    form: traces it: the keys of params are its blocks, statistics keep their form, features have their names
      and shapes. False where the same model is traced at another size.
    evaluation: runs it on images in two orders: finite features, examples that do not see each other,
      unchanged statistics. False where running takes too long.
    training: takes the gradient of a loss, compiled and not: the same, finite, and not zero in the head.
      False where compiling the gradient takes too long.
    cuts: cuts it at every block: what leaves one block enters the next, and a suffix gives the features of
      the whole. False for a model that runs only as a whole.

  Raises:
    AssertionError: the model breaks the contract; one line says which property, and with which numbers.
  """
  Claim(type(model).__name__, "a Model").holds(isinstance(model, Model), "it is not a jaxtl.types.Model")
  shape = (len(SHUFFLED), image_size, image_size, 3)
  if form:
    _form(model, shape, num_classes, stages)
  if not (evaluation or training or cuts):
    return
  images = np.random.default_rng(7).standard_normal(shape).astype(np.float32)
  params, batch_stats = variables or jax.jit(model.init)(jax.random.key(0), images)
  case = _ModelCase(model, params, batch_stats, jnp.asarray(images))
  if evaluation:
    _examples_are_independent(case)
  if training:
    _training_step(case)
  if cuts:
    _prefix_and_suffix(case)


def _form(model: Model, shape: tuple[int, ...], num_classes: int, stages: int) -> None:
  """Names and shapes, without running anything."""
  x, key = jax.ShapeDtypeStruct(shape, jnp.float32), jax.random.key(0)
  params, batch_stats = jax.eval_shape(model.init, key, x)
  features, after = jax.eval_shape(
    lambda p, s, x: model.apply(p, s, x, train=True, key=key), params, batch_stats, x
  )
  Claim(model.name, "blocks").equal(set(params), set(model.blocks), "the set of top-level keys of params")
  Claim(model.name, "form of the statistics").same_form(after, batch_stats, "the statistics after training")
  _features(Claim(model.name, "features"), features, stages)
  claim = Claim(model.name, "shape of the logits")
  claim.equal(features["logits"].shape, (shape[0], num_classes), "the shape of the logits")
  width = params[model.head]["kernel"].shape[0]
  claim.equal(features["pooled"].shape, (shape[0], width), "the shape of pooled, which enters the head,")


def _features(claim: Claim, features: dict[str, Any], stages: int) -> None:
  maps = [name for name in features if name.startswith("stage")]
  claim.equal(set(features), {*maps, "pooled", "logits"}, "the set of features")
  claim.holds(len(maps) >= stages, f"it has the stages {maps}; expected at least {stages}")
  for name in maps:
    claim.holds(features[name].ndim == 4, f"{name} is {describe(features[name])}; expected [B, H, W, C]")


def _examples_are_independent(case: _ModelCase) -> None:
  apply = jax.jit(case.model.apply)
  features, after = apply(case.params, case.batch_stats, case.images)
  permuted, _ = apply(case.params, case.batch_stats, case.images[SHUFFLED])
  case.claim("finite features", "evaluation=False").finite(features, "the feature")
  case.claim("unchanged statistics in evaluation", "evaluation=False").close(
    after, case.batch_stats, "the statistics"
  )
  case.claim("independence of the examples", "evaluation=False").close(
    permuted["logits"],
    features["logits"][SHUFFLED],
    f"the logits of images in the order {SHUFFLED.tolist()}",
    rtol=1e-3,
    atol=1e-4,
  )


def _training_step(case: _ModelCase) -> None:
  def loss(params: Params) -> tuple[Array, Params]:
    features, after = case.model.apply(
      params, case.batch_stats, case.images, train=True, key=jax.random.key(0)
    )
    return -jnp.mean(jax.nn.log_softmax(features["logits"])[:, 0]), after

  (value, after), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(case.params)
  plain, plain_after = loss(case.params)
  claim = case.claim("the same without jit", "training=False")
  claim.close(value, plain, "the loss in training", rtol=1e-4)
  claim.close(after, plain_after, "the statistics after training", rtol=1e-3, atol=1e-4)
  case.claim("finite gradient", "training=False").finite(gradient, "the gradient of")
  head = gradient[case.model.head]
  for path, leaf in zip(tree.paths(head), jax.tree.leaves(head), strict=True):
    case.claim("gradient of the head", "training=False").holds(
      np.any(leaf != 0), f"the gradient of {case.model.head}/{path} is zero everywhere"
    )


def _prefix_and_suffix(case: _ModelCase) -> None:
  model, params, batch_stats, images = case.model, case.params, case.batch_stats, case.images[:2]
  whole, _ = model.apply(params, batch_stats, images)
  # Cut at every block at once: what leaves one enters the next.
  entering = {model.blocks[0]: images}
  for block, following in itertools.pairwise(model.blocks):
    features, _ = model.apply(params, batch_stats, entering[block], start=block, stop=following)
    entering[following] = features["hidden"]
  claim = case.claim("prefix and suffix", "cuts=False")
  # A hundred blocks would take minutes; the rest is what the pieces above are.
  for block in dict.fromkeys([*model.blocks[:: -(-len(model.blocks) // CUTS)], *model.blocks[-2:]]):
    hidden = model.prefix(params, batch_stats, images, stop=block)
    claim.close(hidden, entering[block], f"the prefix that ends at {block}", rtol=1e-6, atol=1e-6)
    features = model.suffix(params, batch_stats, hidden, start=block)
    claim.holds("logits" in features, f"the suffix from {block} has no logits, but {sorted(features)}")
    for name, value in features.items():
      claim.close(value, whole[name], f"{name} of the suffix from {block}", rtol=1e-6, atol=1e-6)
