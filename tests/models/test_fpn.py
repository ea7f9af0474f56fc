import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import models, tree
from jaxtl.errors import ConfigError
from jaxtl.models.layers import Numerics
from jaxtl.models.pyramid import Style, Tap

TAPS = tuple(Tap(level, f"c{level}", 2**level) for level in (3, 4, 5))
STYLE = Style(Numerics())


def maps(rng, side=32):
  return {
    f"c{level}": jnp.asarray(rng.standard_normal((2, side // 2**level, side // 2**level, width)), jnp.float32)
    for level, width in ((3, 5), (4, 6), (5, 7))
  }


def built(style=STYLE, **keywords):
  neck = models.fpn(width=4, **keywords)
  return neck.module(TAPS, style)(name=None)


def conv3(x, kernel, bias, stride=1):
  """3x3 with zeros around, one of each side; for stride 2 only behind, as TensorFlow pads an even size."""
  before = 1 if stride == 1 or x.shape[1] % 2 else 0
  padded = np.pad(x, ((0, 0), (before, 1), (before, 1), (0, 0)))
  height, width = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
  rows = [
    [
      np.einsum(
        "bijc,ijcd->bd", padded[:, stride * y : stride * y + 3, stride * x_ : stride * x_ + 3], kernel
      )
      for x_ in range(width)
    ]
    for y in range(height)
  ]
  return np.stack([np.stack(row, 1) for row in rows], 1) + bias


def test_it_is_the_formula():
  """Lateral, top-down, 3x3, and further levels, written in NumPy; normalisation starts as the identity."""
  rng = np.random.default_rng(0)
  given = maps(rng)
  module = built(Style(Numerics(padding="same"), normalised=False))
  shapes = jax.eval_shape(module.init, jax.random.key(0), given, False, False)["params"]
  params = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32) / 4, shapes)
  found = module.apply({"params": params}, given, False, False)
  x = {
    level: np.asarray(given[f"c{level}"]) @ params[f"lateral{level}"]["kernel"][0, 0]
    + params[f"lateral{level}"]["bias"]
    for level in (3, 4, 5)
  }
  for level in (4, 3):
    x[level] = x[level] + x[level + 1].repeat(2, 1).repeat(2, 2)
  expected = {level: conv3(x[level], **params[f"post{level}"]) for level in (3, 4, 5)}
  expected[6] = conv3(expected[5], stride=2, **params["down6"])
  expected[7] = conv3(np.maximum(expected[6], 0), stride=2, **params["down7"])
  assert set(found) == {f"p{level}" for level in expected}
  for level, value in expected.items():
    np.testing.assert_allclose(found[f"p{level}"], value, rtol=1e-4, atol=1e-4)


def test_every_level_is_normalised_without_an_activation():
  given = maps(np.random.default_rng(1), side=128)
  module = built()
  variables = module.init(jax.random.key(0), given, False, False)
  found, _ = module.apply(variables, given, True, False, mutable=["batch_stats"])
  for level in (3, 4, 5, 6):
    np.testing.assert_allclose(jnp.mean(found[f"p{level}"], (0, 1, 2)), np.zeros(4), atol=1e-4)
    np.testing.assert_allclose(jnp.std(found[f"p{level}"], (0, 1, 2)), np.ones(4), atol=1e-2)


def test_parameters_of_the_full_size():
  """The pyramid of a ResNet-50: 3,871,232."""
  taps = tuple(Tap(level, f"c{level}", 2**level) for level in (3, 4, 5))
  given = {
    f"c{level}": jax.ShapeDtypeStruct((1, 2**8 // 2**level, 2**8 // 2**level, width), jnp.float32)
    for level, width in ((3, 512), (4, 1024), (5, 2048))
  }
  module = models.fpn().module(taps, STYLE)(name=None)
  variables = jax.eval_shape(lambda maps: module.init(jax.random.key(0), maps, False, False), given)
  assert tree.size(variables["params"]) == 3_871_232


@pytest.mark.parametrize(
  ("keywords", "levels"),
  [(dict(), [3, 4, 5, 6, 7]), (dict(max_level=5), [3, 4, 5]), (dict(min_level=4, max_level=6), [4, 5, 6])],
)
def test_levels(keywords, levels):
  neck = models.fpn(width=4, **keywords)
  given = maps(np.random.default_rng(0), side=128)
  taps = tuple(tap for tap in TAPS if tap.level in levels)
  module = neck.module(taps, STYLE)(name=None)
  found = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x, False, False)[0], given)
  assert sorted(found) == [f"p{level}" for level in levels]
  for level in levels:
    assert found[f"p{level}"].shape == (2, 128 // 2**level, 128 // 2**level, 4)


@pytest.mark.parametrize(
  ("keywords", "message"),
  [
    (dict(width=0), "width must be an integer of at least 1; got 0"),
    (dict(min_level=2.0), "min_level must be an integer from 0 to 9; got 2.0"),
    (dict(min_level=5, max_level=4), "max_level=4 is below min_level=5"),
  ],
)
def test_wrong_levels_are_one_line(keywords, message):
  with pytest.raises(ConfigError, match=message):
    models.fpn(**keywords)
