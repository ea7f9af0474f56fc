"""What holds for every public model function: a new one is tested before its author writes a test."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import partial_eval as pe

from jaxtl import models
from jaxtl.types import Model

pytestmark = pytest.mark.slow

FUNCTIONS = {
  name: function
  for name in models.__all__
  if "num_classes" in inspect.signature(function := getattr(models, name)).parameters
}
SMALL = dict(
  width=4, depth=2, num_heads=2, patch_size=4, image_size=8, growth=2, width_factor=0.1, depth_factor=0.2
)
# Depths that a family counts in another way.
SMALL_OF = {"wide_resnet28_10": dict(width=1, depth=10)}
SUFFIXES = 3  # how many a network is cut into two at
RUN, TRAIN = 18, 8  # blocks; beyond, running and compiling the gradient take too long for a fast test


def make_small(name, *, num_classes=3):
  keywords = inspect.signature(FUNCTIONS[name]).parameters
  small = {key: value for key, value in SMALL.items() if key in keywords} | SMALL_OF.get(name, {})
  return FUNCTIONS[name](num_classes=num_classes, **small)


def small_up_to(blocks):
  return [name for name in FUNCTIONS if len(make_small(name).blocks) <= blocks]


def test_the_list_is_not_empty():
  assert len(FUNCTIONS) >= 14


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signature_is_keyword_only_with_a_documented_name(name):
  function = FUNCTIONS[name]
  parameters = inspect.signature(function).parameters
  assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters.values())
  assert function.__name__ == name
  for keyword in parameters:
    assert f"    {keyword}: " in function.__doc__, keyword


@pytest.mark.parametrize("name", FUNCTIONS)
def test_full_size_traces(name):
  model = FUNCTIONS[name](num_classes=10)
  size = inspect.signature(FUNCTIONS[name]).parameters.get("image_size")
  x = jax.ShapeDtypeStruct((2, size.default if size else 64, size.default if size else 64, 3), jnp.float32)
  key = jax.random.key(0)
  params, batch_stats = jax.eval_shape(model.init, key, x)
  features, after = jax.eval_shape(
    lambda p, s, x: model.apply(p, s, x, train=True, key=key), params, batch_stats, x
  )
  assert isinstance(model, Model)
  assert model.name == name
  assert set(params) == set(model.blocks)
  assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, batch_stats)
  stages = [feature for feature in features if feature.startswith("stage")]
  assert len(stages) >= 3
  assert all(features[stage].ndim == 4 for stage in stages)
  assert set(features) == {*stages, "pooled", "logits"}
  assert features["logits"].shape == (2, 10)
  assert features["pooled"].shape == (2, params["head"]["kernel"].shape[0])


@pytest.mark.parametrize("name", small_up_to(RUN))
def test_examples_do_not_see_each_other_in_evaluation(name, filled, images):
  model = make_small(name)
  params, batch_stats = filled(model, (1, 8, 8, 3))
  x = images(4, 8, 8, 3)
  order = np.array([2, 0, 3, 1])
  apply = jax.jit(model.apply)
  features, _ = apply(params, batch_stats, x)
  permuted, _ = apply(params, batch_stats, x[order])
  assert all(np.isfinite(value).all() for value in features.values())
  np.testing.assert_allclose(permuted["logits"], features["logits"][order], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", small_up_to(TRAIN))
def test_training_step_is_finite_and_jit_changes_nothing(name, filled, images):
  model = make_small(name)
  params, batch_stats = filled(model, (1, 8, 8, 3))
  x = images(4, 8, 8, 3)

  def loss(params):
    features, after = model.apply(params, batch_stats, x, train=True, key=jax.random.key(0))
    return -jnp.mean(jax.nn.log_softmax(features["logits"])[:, 0]), after

  (value, after), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  plain, plain_after = loss(params)
  np.testing.assert_allclose(value, plain, rtol=1e-4)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), after, plain_after)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
  assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(grads["head"]))


# One of each family: the sizes of a family share their code.
FAMILIES = (
  "resnet18",
  "resnet20",
  "wide_resnet28_10",
  "densenet121",
  "efficientnet_b0",
  "efficientnet_lite0",
)
FAMILIES += ("mobilenet_v1", "mobilenet_v2", "vit_ti16", "clip_vit_b32")


@pytest.mark.parametrize("name", FAMILIES)
def test_prefix_and_suffix_are_the_whole_at_every_block(name, filled, images):
  model = make_small(name)
  params, batch_stats = filled(model, (1, 8, 8, 3))
  x = images(2, 8, 8, 3)
  whole, _ = model.apply(params, batch_stats, x)
  # Cut at every block at once: what leaves one enters the next.
  entering = {model.blocks[0]: x}
  for block, following in itertools.pairwise(model.blocks):
    features, _ = model.apply(params, batch_stats, entering[block], start=block, stop=following)
    entering[following] = features["hidden"]
  # A hundred blocks would take minutes; the rest is what the pieces above are.
  for block in {*model.blocks[:: -(-len(model.blocks) // SUFFIXES)], *model.blocks[-2:]}:
    hidden = model.prefix(params, batch_stats, x, stop=block)
    np.testing.assert_allclose(hidden, entering[block], rtol=1e-6, atol=1e-6)
    features = model.suffix(params, batch_stats, hidden, start=block)
    assert "logits" in features
    for feature, value in features.items():
      np.testing.assert_allclose(value, whole[feature], rtol=1e-6, atol=1e-6)


OTHER = dict(
  padding={"same": "symmetric", "symmetric": "same"},
  shortcut={"A": "B", "B": "A"},
  activation={"gelu": "gelu_tanh", "quick_gelu": "gelu"},
  bn_epsilon=0.5,
  bn_momentum=0.5,
  batch_norm="stored",
  norm_epsilon=0.5,
  remat=True,
  zero_init_residual=True,
  dtype="bfloat16",
  head="cosine",
  dropout=0.3,
  drop_path=0.3,
  pooling="mean",
  stem="cifar",
  growth=3,
  width=8,
  depth=16,
  width_factor=0.5,
  depth_factor=1.1,
  num_heads=1,
  patch_size=8,
  image_size=16,
  embed_dim=3,
)


def small_model(name, changes):
  """A small model, and the key and images that it takes."""
  keywords = inspect.signature(FUNCTIONS[name]).parameters
  small = {key: value for key, value in SMALL.items() if key in keywords} | SMALL_OF.get(name, {})
  if "depth_factor" in small:
    small["depth_factor"] = 0.5  # fewer blocks have no skip that could be dropped
  model = FUNCTIONS[name](num_classes=3, **small | changes)
  side = (small | changes).get("image_size", 8)
  return model, jax.random.key(0), jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)


@functools.cache
def trace_shapes(name, **changes):
  """The shapes of the parameters and statistics."""
  model, key, x = small_model(name, changes)
  return jax.eval_shape(model.init, key, x)


def trace_beginning(name, **changes):
  """The forward pass in training through the first blocks, as text."""
  return trace_forward(name, blocks=4, **changes)


@functools.cache
def trace_forward(name, *, blocks=None, **changes):
  """The forward pass in training, as text."""
  model, key, x = small_model(name, changes)
  stop = None if blocks is None or blocks >= len(model.blocks) else model.blocks[blocks]
  run = functools.partial(model.apply, train=True, stop=stop)
  return str(jax.make_jaxpr(run)(*trace_shapes(name, **changes), x, key=key))


@functools.cache
def trace_init(name, **changes):
  """How the parameters are drawn, as text."""
  model, key, x = small_model(name, changes)
  closed = jax.make_jaxpr(model.init)(key, x)
  # Without its forward pass, whose results `init` does not return.
  return str(pe.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))[0])


@pytest.mark.parametrize(
  ("name", "keyword"),
  [
    (name, keyword)
    for name in FAMILIES
    for keyword in inspect.signature(FUNCTIONS[name]).parameters
    if keyword != "num_classes"
  ],
)
def test_every_keyword_changes_the_program(name, keyword):
  default = inspect.signature(FUNCTIONS[name]).parameters[keyword].default
  other = OTHER[keyword]
  value = other[default] if isinstance(other, dict) else other
  # In the order of what they cost: most keywords change a shape already.
  looks = (trace_shapes, trace_beginning, trace_forward, trace_init)
  assert any(look(name, **{keyword: value}) != look(name) for look in looks)
