"""Variables for models under test without running their initialisers, whose compilation would dominate."""

import math

import jax
import numpy as np
import pytest

from jaxtl import tree


def _fill(path, shape, rng):
  noise = rng.standard_normal(shape).astype(np.float32)
  if path.endswith("kernel"):
    return noise / math.sqrt(math.prod(shape[:-1]))
  if path.endswith("scale"):
    return 1 + 0.1 * noise
  if path.endswith("var"):
    return np.exp(0.3 * noise)
  return 0.1 * noise


@pytest.fixture(scope="session")
def filled():
  """(model, image shape) -> (params, batch_stats), numpy draws of a sensible size in the model's own tree."""

  def fill(model, shape, *, seed=0):
    rng = np.random.default_rng(seed)
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = jax.eval_shape(model.init, key, jax.ShapeDtypeStruct(shape, np.float32))
    return tree.map_with_path(lambda path, x: jax.numpy.asarray(_fill(path, x.shape, rng)), shapes)

  return fill


@pytest.fixture(scope="session")
def images():
  """shape -> random pixels."""
  return lambda *shape: np.random.default_rng(7).standard_normal(shape).astype(np.float32)
