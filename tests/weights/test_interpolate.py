"""Interpolation: exact ends, types, one copy for all tasks, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import tree, weights
from jaxtl.errors import ConfigError, InputError


def make_params(seed=0, dtype=jnp.float32):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)  # noqa: E731
  return {"conv": {"kernel": draw(3, 3, 2, 4), "bias": draw(4)}, "steps": jnp.asarray(seed, jnp.int32)}


def bits(leaf):
  return np.asarray(leaf).tobytes()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_both_ends_are_bit_identical(dtype):
  before, after = make_params(0, dtype), make_params(1, dtype)
  before["conv"]["bias"] = jnp.asarray([-0.0, 1e-40, -0.0, 6e4], dtype)
  after["conv"]["bias"] = jnp.asarray([1.0, 1e-40, -0.0, 1e-4], dtype)
  for alpha, expected in ((0.0, before), (1.0, after)):
    found = weights.interpolate(before, after, alpha)
    for path in ("kernel", "bias"):
      assert bits(found["conv"][path]) == bits(expected["conv"][path])


def test_between_the_ends_it_is_the_weighted_mean_in_the_types_of_the_weights():
  before, after = make_params(0, jnp.bfloat16), make_params(1, jnp.bfloat16)
  found = weights.interpolate(before, after, 0.3)
  assert jax.tree.map(jnp.dtype, found) == jax.tree.map(jnp.dtype, before)
  wide = [np.asarray(x["conv"]["kernel"], np.float64) for x in (before, after)]
  exact = np.asarray(0.7 * wide[0] + 0.3 * wide[1], np.float32)
  np.testing.assert_array_equal(found["conv"]["kernel"], jnp.asarray(exact).astype(jnp.bfloat16))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_leaves_that_are_not_floating_stay_those_of_before(alpha):
  before, after = make_params(3) | {"mask": jnp.array([True])}, make_params(8) | {"mask": jnp.array([False])}
  found = weights.interpolate(before, after, alpha)
  assert int(found["steps"]) == 3
  assert found["steps"].dtype == jnp.int32
  assert bool(found["mask"][0])


def test_weights_that_agree_are_not_moved():
  before = make_params(0)
  found = weights.interpolate(before, before, 0.5)
  jax.tree.map(np.testing.assert_array_equal, found, before)


def test_a_wider_range_is_given_explicitly():
  before, after = {"w": jnp.zeros(2)}, {"w": jnp.ones(2)}
  found = weights.interpolate(before, after, 1.2, bounds=(0.0, 1.2))
  np.testing.assert_allclose(found["w"], 1.2, rtol=1e-6)


def test_all_tasks_share_one_copy_of_the_weights():
  before, after, seen = {"w": jnp.zeros(2)}, {"w": jnp.ones(2)}, []

  def loss(params):
    seen.append(params)
    return params["w"].sum()

  evaluate = weights.losses_along(before, after, {"old": loss, "new": lambda p: loss(p) ** 2})
  assert evaluate(0.25) == {"old": 0.5, "new": 0.25}
  assert seen[0] is seen[1]


@pytest.mark.parametrize("alpha", [-0.1, 1.0001, float("nan"), float("inf")])
def test_alpha_out_of_range_is_refused(alpha):
  with pytest.raises(ConfigError, match=r"outside \[0, 1\]; give wider bounds") as caught:
    weights.interpolate(make_params(), make_params(1), alpha)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda b: {"conv": b["conv"]}, "steps is only in the weights before fine-tuning"),
    (lambda b: b | {"neck": jnp.ones(1)}, "neck is only in those after it"),
    (lambda b: b | {"steps": jnp.zeros(2, jnp.int32)}, r"steps has shape \(\)"),
    (lambda b: b | {"steps": jnp.float32(1)}, "steps is int32 in the weights before"),
    (
      lambda b: tree.replace(b, {"conv/bias": jnp.array([0, 1, jnp.nan, 0])}),
      "conv/bias of those after it is not",
    ),
  ],
)
def test_trees_that_do_not_fit_are_refused_in_one_line(change, message):
  with pytest.raises(InputError, match=message) as caught:
    weights.interpolate(make_params(), change(make_params(1)), 0.5)
  assert "\n" not in str(caught.value)


def test_a_nan_before_fine_tuning_is_named_even_at_the_other_end():
  bad = tree.replace(make_params(), {"conv/bias": jnp.full(4, jnp.nan)})
  with pytest.raises(InputError, match="conv/bias of the weights before fine-tuning is not finite"):
    weights.interpolate(bad, make_params(1), 1.0)


@pytest.mark.parametrize("bounds", [(1.0, 0.0), (0.0, float("inf")), (0.5, 0.5)])
def test_bounds_are_an_interval(bounds):
  with pytest.raises(ConfigError, match="bounds"):
    weights.interpolate(make_params(), make_params(1), 0.5, bounds=bounds)


def test_no_tasks_are_refused():
  with pytest.raises(ConfigError, match="no tasks"):
    weights.losses_along(make_params(), make_params(1), {})
