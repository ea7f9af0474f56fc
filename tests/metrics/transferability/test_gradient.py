"""The gradient signal: ratios by block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.errors import ConfigError
from jaxtl.metrics import transferability as t

PARAMS = {
  "stem": {"w": jnp.array([3.0, 4])},
  "block1": {"w": jnp.array([[2.0]]), "b": jnp.zeros(1)},
  "pool": {},
}
GRADS = {
  "stem": {"w": jnp.array([0.6, 0.8])},
  "block1": {"w": jnp.array([[3.0]]), "b": jnp.array([4.0])},
  "pool": {},
}


def test_it_is_the_mean_ratio_of_blocks_with_parameters():
  score = t.gradient_signal(PARAMS, GRADS, blocks=("stem", "block1", "pool"))
  assert score.details["blocks"] == pytest.approx({"stem": 0.2, "block1": 2.5})
  assert float(score) == pytest.approx(1.35)
  assert float(t.gradient_signal(PARAMS, GRADS, blocks=("stem",))) == pytest.approx(0.2)


def test_the_unit_of_a_block_cancels_in_a_scale_invariant_network():
  """f(c w) = f(w): the gradient shrinks by c and the weight grows by c."""

  def loss(params):
    return jnp.sum(jnp.sin(params["a"]["w"] / jnp.linalg.norm(params["a"]["w"])))

  params = {"a": {"w": jnp.array([1.0, 2, 3])}}
  values = [
    float(t.gradient_signal(p, jax.grad(loss)(p), blocks=("a",)))
    for p in (params, jax.tree.map(lambda w: 2 * w, params))
  ]
  assert values[1] == pytest.approx(values[0] / 4, rel=1e-4)


def test_bad_trees_are_refused():
  with pytest.raises(ConfigError, match="no block 'block9'"):
    t.gradient_signal(PARAMS, GRADS, blocks=("stem", "block9"))
  with pytest.raises(t.ScoreError, match="no block has parameters"):
    t.gradient_signal(PARAMS, GRADS, blocks=("pool",))
  broken = {**GRADS, "stem": {"w": jnp.array([np.nan, 1])}}
  with pytest.raises(t.ScoreError, match="NaN"):
    t.gradient_signal(PARAMS, broken, blocks=("stem",))
