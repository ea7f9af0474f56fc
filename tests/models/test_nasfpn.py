"""The wiring of NAS-FPN: node by node, with convolutions and norms that are the identity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import models, tree
from jaxtl.errors import ConfigError
from jaxtl.models.layers import Numerics
from jaxtl.models.nasfpn import gate
from jaxtl.models.pyramid import Style, Tap

STYLE = Style(Numerics(padding="same"))
FIVE = tuple(Tap(level, f"c{level}", 2**level) for level in range(3, 8))


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def identity(path, x):
  """Kernels that pass a map on, and norms that do nothing."""
  if path.endswith("scale"):
    return jnp.ones(x.shape)
  if path.endswith("bias"):
    return jnp.zeros(x.shape)
  centre = x.shape[0] // 2
  kernel = np.zeros(x.shape, np.float32)
  kernel[centre, centre] = np.eye(*x.shape[2:]) if x.shape[2] == x.shape[3] else 1
  return jnp.asarray(kernel)


def run(given, taps, *, repeats=1, width=3, separable=True):
  """The outputs of cells whose layers are the identity."""
  neck = models.nasfpn(width=width, repeats=repeats, separable=separable)
  module = neck.module(taps, Style(Numerics(padding="same"), normalised=False))(name=None)
  shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, False, False), given)["params"]
  found = module.apply({"params": tree.map_with_path(identity, shapes)}, given, False, False)
  assert list(found) == ["p3", "p4", "p5", "p6", "p7"]
  return list(found.values())


def constant(values, width=3, side=128):
  return {
    f"c{level}": jnp.full((2, side // 2**level, side // 2**level, width), value)
    for level, value in zip(range(3, 8), values)
  }


def by_hand(p3, p4, p5, p6, p7):
  """The nodes of a cell for constant maps, from the table of connections."""
  relu = lambda x: max(x, 0.0)  # noqa: E731
  n5 = relu(p6 + p4 * sigmoid(p6))
  n6 = relu(p4 + n5)
  n7 = relu(p3 + n6)
  n8 = relu(n6 + n7)
  n9 = relu(n8 + n7 * sigmoid(n8) + p5)
  n10 = relu(n9 + n6 * sigmoid(n9) + p7)
  n11 = relu(n10 + n9 * sigmoid(n10))
  return n7, n8, n9, n11, n10


@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("values", [(0.1, 0.2, 0.3, 0.4, 0.5), (1.0, -2.0, 0.5, 0.25, -0.75)])
def test_node_values_by_hand(values, separable):
  found = run(constant(values), FIVE, separable=separable)
  for level, (x, expected) in enumerate(zip(found, by_hand(*values)), start=3):
    assert x.shape == (2, 128 // 2**level, 128 // 2**level, 3)
    np.testing.assert_allclose(x, np.full(x.shape, expected), rtol=1e-6)


def test_the_outputs_of_a_cell_are_the_inputs_of_the_next():
  values = (0.1, -0.2, 0.3, 0.1, 0.2)
  found = run(constant(values), FIVE, repeats=2)
  for x, expected in zip(found, by_hand(*by_hand(*values))):
    np.testing.assert_allclose(x, np.full(x.shape, expected), rtol=1e-6)


def test_levels_that_the_backbone_lacks_are_pooled():
  given = {name: x for name, x in constant((0.1, 0.2, 0.3, 9, 9)).items() if name in ("c3", "c4", "c5")}
  found = run(given, FIVE[:3])
  for x, expected in zip(found, by_hand(0.1, 0.2, 0.3, 0.3, 0.3)):
    np.testing.assert_allclose(x, np.full(x.shape, expected), rtol=1e-6)


def test_maps_are_pooled_down_and_repeated_up():
  """A single 1 in the finest input: it reaches P4 by the largest value and P3 at its own place."""
  given = constant((0.0, 0.0, 0.0, 0.0, 0.0))
  given["c3"] = given["c3"].at[:, 5, 9].set(1.0)
  p3, p4, *_ = run(given, FIVE)
  assert np.argwhere(np.asarray(p3[0, ..., 0])).tolist() == [[5, 9]]
  assert np.argwhere(np.asarray(p4[0, ..., 0])).tolist() == [[2, 4]]
  given = constant((0.0, 0.0, 0.0, 0.0, 0.0))
  given["c6"] = given["c6"].at[:, 1, 0].set(1.0)  # 16 x 16 positions of level 3... through 8 x 8 of level 4
  p3, *_ = run(given, FIVE)
  rows = np.flatnonzero(np.asarray(p3[0, ..., 0]).any(1))
  assert (rows.min(), rows.max()) == (8, 15)


def test_the_gate_by_hand():
  coarse = jnp.array([[[[1.0, -3.0]], [[2.0, -1.0]]]])
  fine = jnp.array([[[[10.0, 20.0]], [[30.0, 40.0]]]])
  expected = np.asarray(coarse) + np.asarray(fine) * sigmoid(np.array([2.0, -1.0]))
  np.testing.assert_allclose(gate(coarse, fine), expected, rtol=1e-6)


def test_only_maps_of_another_width_are_projected():
  given = constant((0.0,) * 5, width=3)
  given["c4"] = jnp.zeros((2, 8, 8, 6))
  module = models.nasfpn(width=3, repeats=1).module(FIVE, STYLE)(name=None)
  params = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, False, False), given)["params"]
  assert {name for name in params if name.startswith("project")} == {"project4", "project4_bn"}


@pytest.mark.parametrize(
  ("widths", "projections"), [((80, 224, 640), 244_912), ((176, 480, 1376), 524_528)], ids=["b7", "l2"]
)
def test_parameters_of_the_full_size(widths, projections):
  given = {
    f"c{level}": jax.ShapeDtypeStruct((1, 2**8 // 2**level, 2**8 // 2**level, width), jnp.float32)
    for level, width in zip((3, 4, 5), widths)
  }
  module = models.nasfpn(repeats=1).module(FIVE[:3], STYLE)(name=None)
  params = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, False, False), given)["params"]
  sizes = {name: tree.size(leaves) for name, leaves in params.items()}
  assert sum(size for name, size in sizes.items() if name.startswith("project")) == projections
  assert sum(size for name, size in sizes.items() if name.startswith("cell")) == 7 * 68_608


def test_options_change_the_parameters():
  given = constant((0.0,) * 5, width=3)

  def count(**keywords):
    module = models.nasfpn(**dict(width=4, repeats=2) | keywords).module(FIVE, STYLE)(name=None)
    return tree.size(
      jax.eval_shape(lambda x: module.init(jax.random.key(0), x, False, False), given)["params"]
    )

  assert len({count(), count(width=8), count(repeats=3), count(separable=False)}) == 4
  assert models.nasfpn(min_level=2).min_level == 2
  assert models.nasfpn(min_level=2).max_level == 6


@pytest.mark.parametrize(
  ("keywords", "message"),
  [
    (dict(repeats=0), "repeats"),
    (dict(width=-1), "width"),
    (dict(min_level=8), "max_level"),
    (dict(min_level="3"), "min_level"),
  ],
)
def test_wrong_values_are_one_line(keywords, message):
  with pytest.raises(ConfigError, match=f"{message} must be an integer"):
    models.nasfpn(**keywords)
