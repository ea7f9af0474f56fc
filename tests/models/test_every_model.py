"""What holds for every public model function: a new one is tested before its author writes a test."""

import functools
import inspect

import jax
import jax.numpy as jnp
import pytest
from jax.interpreters import partial_eval as pe

from jaxtl import models
from jaxtl.testing import check_model

pytestmark = pytest.mark.slow

FUNCTIONS = {
  name: function
  for name in models.__all__
  if "num_classes" in (keywords := inspect.signature(function := getattr(models, name)).parameters)
  and "backbone" not in keywords
}
SMALL = dict(
  width=4, depth=2, num_heads=2, patch_size=4, image_size=8, growth=2, width_factor=0.1, depth_factor=0.2
)
# Depths that a family counts in another way.
SMALL_OF = {"wide_resnet28_10": dict(width=1, depth=10)}
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
def test_full_size_keeps_the_form(name):
  model = FUNCTIONS[name](num_classes=10)
  size = inspect.signature(FUNCTIONS[name]).parameters.get("image_size")
  check_model(
    model,
    num_classes=10,
    image_size=size.default if size else 64,
    evaluation=False,
    training=False,
    cuts=False,
  )
  assert model.name == name


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


# Others take images of 8 pixels; these halve them until nothing is left.
IMAGE_SIZE = {"densenet121": 32}


@pytest.mark.parametrize("name", [*dict.fromkeys([*small_up_to(RUN), *FAMILIES])])
def test_a_small_one_keeps_the_contract(name, filled):
  model, size = make_small(name), IMAGE_SIZE.get(name, 8)
  check_model(
    model,
    num_classes=3,
    image_size=size,
    variables=filled(model, (1, size, size, 3)),
    form=False,
    evaluation=len(model.blocks) <= RUN,
    training=len(model.blocks) <= TRAIN,
    cuts=name in FAMILIES,
  )


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
