"""Directions: their norms, their types, and what is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import tree, weights
from jaxtl.errors import ConfigError, InputError

KEY = jax.random.key(0)


def make_params(seed=0, dtype=jnp.float32):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)  # noqa: E731
  return {
    "conv": {"kernel": draw(3, 3, 2, 4), "bias": draw(4)},
    "norm": {"scale": draw(4)},
    "head": {"kernel": draw(4, 5).at[:, 2].set(0)},
  }


@pytest.mark.parametrize("seed", [0, 1])
def test_each_filter_has_the_norm_of_the_weights_and_the_rest_is_zero(seed):
  params = make_params()
  found = weights.filter_normalized(jax.random.key(seed), params)
  for layer in ("conv", "head"):
    rows, w = (
      np.asarray(x[layer]["kernel"]).reshape(-1, x[layer]["kernel"].shape[-1]) for x in (found, params)
    )
    np.testing.assert_allclose(np.linalg.norm(rows, axis=0), np.linalg.norm(w, axis=0), rtol=1e-5)
  assert not np.any(found["conv"]["bias"])
  assert not np.any(found["norm"]["scale"])
  assert not np.any(found["head"]["kernel"][:, 2])  # a filter of zeros stays one


def test_filters_of_a_direction_are_gaussian_directions():
  # In a filter of n weights of norm sqrt(n), a direction uniform on the sphere has entries of variance 1.
  draws = [weights.filter_normalized(key, {"k": jnp.ones((50, 40))})["k"] for key in jax.random.split(KEY, 5)]
  entries = np.concatenate([np.asarray(x).ravel() for x in draws])
  assert abs(entries.mean()) < 4 / math.sqrt(entries.size)
  np.testing.assert_allclose(np.mean(entries**4), 3 * 50 / 52, rtol=0.1)  # 3 n / (n + 2) on the sphere


def test_rescaled_filters_have_a_direction_rescaled_with_them():
  params = make_params()
  factors = jnp.array([0.1, 1.0, 3.0, 20.0])
  scaled = params | {
    "conv": {
      "kernel": params["conv"]["kernel"] * factors[None, None, None, :],
      "bias": params["conv"]["bias"],
    }
  }
  before, after = (weights.filter_normalized(KEY, p)["conv"]["kernel"] for p in (params, scaled))
  np.testing.assert_allclose(after, before * factors[None, None, None, :], rtol=1e-5)


def test_between_leads_from_one_checkpoint_to_the_other():
  a, b = make_params(0), make_params(1)
  direction = weights.between(a, b)
  found = weights.moved(a, [direction], [1.0])
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), found, b)
  half = weights.moved(a, [direction], [0.5])
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), half, tree.lerp(a, b, 0.5)
  )


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda b: {"conv": b["conv"], "norm": b["norm"]}, "head/kernel is only in the first checkpoint"),
    (lambda b: b | {"neck": jnp.ones(1)}, "neck is only in the second"),
    (
      lambda b: b | {"norm": {"scale": jnp.ones(3)}},
      r"norm/scale has shape \(4,\) in the first checkpoint and \(3,\) in the second",
    ),
    (
      lambda b: b | {"norm": {"scale": jnp.ones(4, jnp.bfloat16)}},
      "norm/scale is float32 in the first checkpoint and bfloat16 in the second",
    ),
  ],
)
def test_checkpoints_that_do_not_match_are_told_apart_in_one_line(change, message):
  with pytest.raises(InputError, match=message) as caught:
    weights.between(make_params(), change(make_params()))
  assert "\n" not in str(caught.value)


def test_containers_of_other_types_are_refused():
  with pytest.raises(InputError, match="containers"):
    weights.between({"0": jnp.ones(2)}, [jnp.ones(2)])


@pytest.mark.parametrize("length", [1.0, 7.5])
def test_a_vector_keeps_its_direction_and_takes_the_length_and_the_types(length):
  params = make_params(dtype=jnp.bfloat16)
  vector = tree.random_like(KEY, make_params())
  found = weights.along(vector, params, length=length)
  assert jax.tree.map(jnp.dtype, found) == jax.tree.map(jnp.dtype, params)
  np.testing.assert_allclose(tree.norm(found), length, rtol=1e-2)
  cosine = tree.dot(found, vector) / (tree.norm(found) * tree.norm(vector))
  np.testing.assert_allclose(cosine, 1, rtol=1e-4)


def test_orthogonalized_is_gram_schmidt():
  first, second = (tree.random_like(key, make_params()) for key in jax.random.split(KEY))
  second = tree.add(second, tree.scale(5.0, first))
  found = weights.orthogonalized(second, first)
  flat = lambda x: np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(x)])  # noqa: E731
  f, s = flat(first), flat(second)
  np.testing.assert_allclose(flat(found), s - (s @ f) / (f @ f) * f, atol=1e-5)
  assert abs(flat(found) @ f) < 1e-6 * np.linalg.norm(flat(found)) * np.linalg.norm(f)


@pytest.mark.parametrize("first", [1.0, -3.0, 0.0])
def test_parallel_directions_are_refused(first):
  second = tree.random_like(KEY, make_params())
  with pytest.raises(InputError, match="parallel"):
    weights.orthogonalized(second, tree.scale(first, second))


def test_moved_is_exact_at_the_origin_and_keeps_types():
  params = make_params(dtype=jnp.bfloat16)
  directions = [weights.filter_normalized(key, params) for key in jax.random.split(KEY)]
  assert jax.tree.map(jnp.dtype, directions[0]) == jax.tree.map(jnp.dtype, params)
  found = weights.moved(params, directions, [0.0, 0.0])
  assert jax.tree.map(jnp.dtype, found) == jax.tree.map(jnp.dtype, params)
  jax.tree.map(np.testing.assert_array_equal, found, params)


def test_moved_adds_in_float32_before_it_rounds():
  one = {"w": jnp.ones(1, jnp.bfloat16)}  # the next number is 1 + 2 / 256
  found = weights.moved(one, [one, one], [0.8 / 256, 0.8 / 256])  # one of the two alone would round to 1
  np.testing.assert_array_equal(np.float32(found["w"]), 1 + 2 / 256)


@pytest.mark.parametrize(
  ("call", "error", "message"),
  [
    (lambda p: weights.along(p, p, length=0.0), ConfigError, "length is 0.0"),
    (lambda p: weights.along(tree.zeros_like(p), p), InputError, "norm 0.0"),
    (lambda p: weights.along(tree.scale(jnp.nan, p), p), InputError, "norm nan"),
    (lambda p: weights.along(p["conv"], p), InputError, "conv/bias is only in the parameters"),
    (lambda p: weights.orthogonalized(p, p["conv"]), InputError, "bias is only in the first direction"),
    (lambda p: weights.moved(p, [p], [1.0, 2.0]), ConfigError, "2 coefficients for 1 directions"),
  ],
)
def test_bad_input_is_one_line(call, error, message):
  with pytest.raises(error, match=message) as caught:
    call(make_params())
  assert "\n" not in str(caught.value)
