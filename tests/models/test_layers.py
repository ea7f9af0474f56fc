import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl.errors import ConfigError
from jaxtl.models import layers

KEY = jax.random.key(0)


def first_token(x):
  return x[:, 0]


def run_norm(x, *, stored, mean=0.0, var=1.0, zero_scale=False, **numerics):
  layer = layers.Numerics(**numerics).norm(
    train=not stored, frozen_stats=False, zero_scale=zero_scale, name=None
  )
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
  layer = layers.Numerics().conv(2, kernel=kernel, stride=stride, name=None)
  pad = kernel // 2
  padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))
  expected = np.einsum("bhwcij,ijco->bhwo", windows[:, ::stride, ::stride], w)
  np.testing.assert_allclose(layer.apply({"params": {"kernel": w}}, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kernel", "size", "low"), [(3, 4, 0), (3, 5, 1), (5, 4, 1), (7, 6, 2), (1, 4, 0)])
def test_same_padding_of_stride_2_is_tensorflow_s(kernel, size, low):
  # At an even size TensorFlow puts the odd pixel of padding at the end, torch's rule puts it at the start.
  rng = np.random.default_rng(0)
  x = rng.standard_normal((1, size, size, 2)).astype(np.float32)
  w = rng.standard_normal((kernel, kernel, 2, 2)).astype(np.float32)
  out = -(-size // 2)
  total = max((out - 1) * 2 + kernel - size, 0)
  assert total // 2 == low
  padded = np.pad(x, ((0, 0), (low, total - low), (low, total - low), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))[:, ::2, ::2]
  layer = layers.Numerics(padding="same").conv(2, kernel=kernel, stride=2, name=None)
  expected = np.einsum("bhwcij,ijco->bhwo", windows, w)
  np.testing.assert_allclose(layer.apply({"params": {"kernel": w}}, x), expected, rtol=1e-4, atol=1e-5)


def test_epsilon_and_momentum_are_those_of_the_numerics():
  x = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
  y, moved = run_norm(x, stored=False, mean=5.0, var=3.0, epsilon=0.5, momentum=0.75)
  np.testing.assert_allclose(y, (x - x.mean(0)) / np.sqrt(x.var(0) + 0.5), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(moved["batch_stats"]["var"], 0.75 * 3 + 0.25 * x.var(0), rtol=1e-5)


def test_stored_batch_norm_never_looks_at_the_batch():
  x = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
  y, moved = run_norm(x, stored=False, mean=0.5, var=4.0, batch_norm="stored")
  np.testing.assert_allclose(y, (x - 0.5) / np.sqrt(4.00001), rtol=1e-5)
  np.testing.assert_array_equal(moved["batch_stats"]["mean"], 0.5)


def test_without_classes_the_head_only_pools():
  x = jnp.ones((2, 3, 3, 4))
  assert set(layers.Head(0).apply({"params": {}}, x, False, False)) == {"pooled"}


def test_dropout_of_the_head_is_before_the_classifier_and_only_in_training():
  x = jnp.ones((64, 1, 1, 50))
  head = layers.Head(1, dropout=0.5)
  params = {"params": {"kernel": jnp.ones((50, 1)), "bias": jnp.zeros(1)}}
  np.testing.assert_allclose(head.apply(params, x, False, False)["logits"], 50)
  noisy = head.apply(params, x, True, False, rngs={"dropout": KEY})
  np.testing.assert_array_equal(noisy["pooled"], 1)
  assert abs(np.mean(noisy["logits"]) - 50) < 4 * np.sqrt(50 / 64)
  assert np.std(noisy["logits"]) > 1


def test_drop_path_leaves_whole_examples_out_and_keeps_the_mean():
  x = jnp.ones((400, 2, 2, 3))
  y = np.asarray(layers.DropPath(0.25).apply({}, x, True, rngs={"dropout": KEY})).reshape(400, -1)
  assert all(len(set(row)) == 1 for row in y)
  assert set(np.unique(y)) == {0, np.float32(1 / 0.75)}
  assert abs(y.mean() - 1) < 4 * np.sqrt(0.25 / 0.75 / 400)
  np.testing.assert_array_equal(layers.DropPath(0.25).apply({}, x, False), x)


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
  with pytest.raises(ConfigError, match=r"rate must be in \[0, 1\); got 1"):
    layers.check_rate("rate", 1)
  for keywords, message in (
    (dict(padding="valid"), "padding must be 'symmetric' or 'same'; got 'valid'"),
    (dict(bn_epsilon=0.0), "bn_epsilon must be above 0; got 0.0"),
    (dict(bn_momentum=1.0), r"bn_momentum must be in \[0, 1\); got 1.0"),
    (dict(batch_norm="off"), "batch_norm must be 'batch' or 'stored'; got 'off'"),
  ):
    with pytest.raises(ConfigError, match=message):
      layers.Numerics.of(**{"dtype": "float32", "batch_norm": "batch", **keywords})
  for value in (0, -1, 2.0, True, "3"):
    with pytest.raises(ConfigError, match="width must be an integer of at least 1"):
      layers.check_count("width", value)
