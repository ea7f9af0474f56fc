import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.errors import ConfigError
from jaxtl.models import layers

KEY = jax.random.key(0)


def first_token(x):
  return x[:, 0]


def run_norm(x, *, stored, dtype=jnp.float32, mean=0.0, var=1.0, zero_scale=False):
  layer = layers.batch_norm(stored=stored, zero_scale=zero_scale, dtype=dtype, name=None)
  width = x.shape[-1]
  variables = {
    "params": layer.init(KEY, x)["params"],
    "batch_stats": {"mean": jnp.full(width, mean), "var": jnp.full(width, var)},
  }
  return layer.apply(variables, x, mutable=["batch_stats"])


@pytest.mark.parametrize(
  ("kernel", "stride", "size"), [(1, 1, 4), (1, 2, 4), (3, 1, 4), (3, 2, 4), (7, 2, 6)]
)
def test_convolution_pads_both_sides_alike(kernel, stride, size):
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, size, size, 3)).astype(np.float32)
  w = rng.standard_normal((kernel, kernel, 3, 2)).astype(np.float32)
  layer = layers.conv(2, kernel=kernel, stride=stride, dtype=jnp.float32, name=None)
  pad = kernel // 2
  padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))
  expected = np.einsum("bhwcij,ijco->bhwo", windows[:, ::stride, ::stride], w)
  np.testing.assert_allclose(layer.apply({"params": {"kernel": w}}, x), expected, rtol=1e-4, atol=1e-5)


def test_batch_statistics_move_by_a_tenth_with_the_variance_over_n():
  x = np.random.default_rng(0).standard_normal((6, 2, 2, 3)).astype(np.float32) * 2 + 1
  y, moved = run_norm(x, stored=False, mean=5.0, var=3.0)
  mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
  np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(moved["batch_stats"]["mean"], 0.9 * 5 + 0.1 * mean, rtol=1e-5)
  np.testing.assert_allclose(moved["batch_stats"]["var"], 0.9 * 3 + 0.1 * var, rtol=1e-5)


def test_stored_statistics_normalise_and_stay():
  x = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
  y, moved = run_norm(x, stored=True, mean=0.5, var=3e-5)
  np.testing.assert_allclose(y, (x - 0.5) / np.sqrt(4e-5), rtol=1e-5)
  np.testing.assert_allclose(moved["batch_stats"]["var"], 3e-5, rtol=1e-6)


def test_statistics_are_float32_under_bfloat16():
  # 256 and 258 are neighbours in bfloat16, which has no 257.
  x = jnp.asarray(np.repeat([256.0, 258.0], 4)[:, None], jnp.bfloat16)
  y, moved = run_norm(x, stored=False, dtype=jnp.bfloat16)
  assert y.dtype == jnp.bfloat16
  assert moved["batch_stats"]["mean"].dtype == jnp.float32
  np.testing.assert_allclose(moved["batch_stats"]["mean"], [25.7], rtol=1e-5)


def test_zero_scale_starts_at_zero():
  x = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
  np.testing.assert_array_equal(run_norm(x, stored=False, zero_scale=True)[0], 0)


def test_kernels_start_with_the_spread_of_their_source():
  conv = layers.kaiming_normal(KEY, (3, 3, 16, 64))
  np.testing.assert_allclose(np.std(conv), np.sqrt(2 / (9 * 64)), rtol=0.03)
  assert np.abs(conv).max() > 3 * np.std(conv)  # not truncated
  for draw in (layers.uniform_fan_in(KEY, (64, 100)), layers.uniform_bias(64)(KEY, (6400,))):
    assert np.abs(draw).max() <= 1 / 8
    np.testing.assert_allclose(np.std(draw), 1 / 8 / np.sqrt(3), rtol=0.03)


def test_linear_head_is_affine_and_float32():
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((4, 2, 3)), jnp.bfloat16)
  params = {"kernel": rng.standard_normal((3, 5)).astype(np.float32), "bias": np.arange(5, dtype=np.float32)}
  out = layers.Head(5, "linear", first_token).apply({"params": params}, x, False, False)
  pooled = np.asarray(x[:, 0], np.float32)
  np.testing.assert_array_equal(out["pooled"], pooled)
  np.testing.assert_allclose(out["logits"], pooled @ params["kernel"] + params["bias"], rtol=1e-5, atol=1e-6)
  assert out["pooled"].dtype == out["logits"].dtype == jnp.float32


def test_cosine_head_gives_cosines():
  rng = np.random.default_rng(0)
  x, kernel = (
    rng.standard_normal((4, 1, 3)).astype(np.float32),
    rng.standard_normal((3, 5)).astype(np.float32),
  )
  head = layers.Head(5, "cosine", first_token)
  assert set(head.init(KEY, x, False, False)["params"]) == {"kernel"}
  logits = head.apply({"params": {"kernel": kernel}}, 7 * x, False, False)["logits"]
  norms = np.linalg.norm(x[:, 0], axis=1)[:, None] * np.linalg.norm(kernel, axis=0)[None]
  np.testing.assert_allclose(logits, x[:, 0] @ kernel / norms, rtol=1e-5)


def test_a_zero_vector_has_zero_cosine_and_a_finite_gradient():
  value, grad = jax.value_and_grad(lambda x: jnp.sum(layers.unit(x, axis=0)))(jnp.zeros(3))
  assert value == 0
  assert np.isfinite(grad).all()


def test_spatial_mean_is_over_pixels():
  x = np.arange(24, dtype=np.float32).reshape(2, 2, 3, 2)
  np.testing.assert_allclose(layers.spatial_mean(x), x.mean((1, 2)))


def test_bad_values_are_named():
  with pytest.raises(ConfigError, match="dtype must be 'float32' or 'bfloat16'; got 'float16'"):
    layers.checked_dtype("float16")
  with pytest.raises(ConfigError, match="head must be 'a' or 'b'; got 1"):
    layers.check_choice("head", 1, ("a", "b"))
  for value in (0, -1, 2.0, True, "3"):
    with pytest.raises(ConfigError, match="width must be a whole number from 1"):
      layers.check_count("width", value)
