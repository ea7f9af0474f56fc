import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import losses
from jaxtl.errors import DataError
from jaxtl.losses.segmentation import VOID


def batch(dtype=np.uint8):
  rng = np.random.default_rng(0)
  logits = rng.standard_normal((2, 4, 6, 5)).astype(np.float32)
  segments = rng.integers(0, 5, (2, 16, 24)).astype(dtype)
  segments[0, :5] = VOID
  return jnp.asarray(logits), jnp.asarray(segments)


def loop(logits, segments, smoothing=0.0):
  total, count = 0.0, 0
  for y in range(logits.shape[0]):
    for x in range(logits.shape[1]):
      label = int(segments[4 * y, 4 * x])
      if label != VOID:
        z = np.asarray(logits[y, x], np.float64)
        log_p = z - np.log(np.sum(np.exp(z)))
        total -= (1 - smoothing) * log_p[label] + smoothing * log_p.mean()
        count += 1
  return total, count


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_it_is_that_of_the_loop_at_every_fourth_pixel(dtype, smoothing):
  logits, segments = batch(dtype)
  found = losses.segment_losses(logits, segments, label_smoothing=smoothing)
  for image in range(2):
    total, count = loop(logits[image], segments[image], smoothing)
    np.testing.assert_allclose(found.sums[image], total, rtol=1e-6)
    assert found.pixels[image] == count
  assert found.pixels.tolist() == [12, 24]


def test_uniform_logits_cost_log_k():
  _, segments = batch()
  found = losses.segment_losses(jnp.zeros((2, 4, 6, 5)), segments)
  mean = jnp.mean(losses.per_batch(*found, jnp.ones(2, bool)))
  np.testing.assert_allclose(mean, np.log(5), rtol=1e-6)


def test_the_mean_of_a_batch_is_over_its_pixels():
  logits, segments = batch()
  found = losses.segment_losses(logits, segments)
  mask = jnp.array([True, True])
  np.testing.assert_allclose(jnp.mean(losses.per_batch(*found, mask)), jnp.sum(found.sums) / 36, rtol=1e-6)


def test_void_has_no_gradient_and_another_void_counts():
  logits, segments = batch()
  gradient = jax.grad(lambda x: jnp.sum(losses.segment_losses(x, segments).sums))(logits)
  void = np.asarray(segments[:, ::4, ::4] == VOID)
  assert np.all(np.asarray(gradient)[void] == 0)
  assert np.all(np.any(np.asarray(gradient)[~void] != 0, axis=-1))
  assert losses.segment_losses(logits, jnp.where(segments == VOID, 0, segments), void=0).pixels[0] < 24


def test_an_image_of_void_alone_costs_nothing():
  logits, segments = batch()
  found = losses.segment_losses(logits, jnp.full_like(segments, VOID))
  assert found.sums.tolist() == found.pixels.tolist() == [0, 0]
  assert losses.per_batch(*found, jnp.ones(2, bool)).tolist() == [0, 0]


def test_an_id_that_is_no_class_makes_its_image_nan():
  logits, segments = batch()
  found = losses.segment_losses(logits, segments.at[1, 0, 0].set(5))
  assert np.isnan(found.sums).tolist() == [False, True]


def test_bfloat16_logits_give_a_float32_loss_of_the_same_numbers():
  logits, segments = batch()
  half = logits.astype(jnp.bfloat16)
  found = losses.segment_losses(half, segments)
  assert found.sums.dtype == found.pixels.dtype == jnp.float32
  np.testing.assert_allclose(found.sums, losses.segment_losses(half.astype(jnp.float32), segments).sums)


@pytest.mark.parametrize("size", [1e3, -1e3])
def test_the_gradient_is_finite(size):
  _, segments = batch()
  logits = jnp.zeros((2, 4, 6, 5)).at[..., 2].set(size)
  gradient = jax.grad(lambda x: jnp.sum(losses.segment_losses(x, segments).sums))(logits)
  assert np.all(np.isfinite(gradient))


def test_vmap_and_jit_give_the_same():
  logits, segments = batch()
  whole = losses.segment_losses(logits, segments)

  def one(logits, segments):
    return jax.tree.map(lambda x: x[0], losses.segment_losses(logits[None], segments[None]))

  for found in (jax.vmap(one)(logits, segments), jax.jit(losses.segment_losses)(logits, segments)):
    for a, b in zip(found, whole):
      np.testing.assert_allclose(a, b, rtol=1e-6)


def test_ids_are_taken_and_never_mixed():
  segments = jnp.asarray(np.random.default_rng(1).integers(0, 200, (1, 10, 14)))
  np.testing.assert_array_equal(losses.at_stride(segments, (3, 4)), segments[:, ::4, ::4])
  np.testing.assert_array_equal(losses.at_stride(segments, (10, 14)), segments)


@pytest.mark.parametrize(
  ("logits", "segments", "message"),
  [
    ((2, 4, 5), (2, 16, 24), r"logits have shape \[2, 4, 5\]; expected \[B, h, w, K\]"),
    ((2, 4, 6, 5), (2, 16), r"segments have shape \[2, 16\]"),
    ((2, 26, 26, 5), (2, 100, 100), "100 x 100 pixels do not fit logits of 26 x 26"),
  ],
)
def test_shapes_that_do_not_fit_are_refused(logits, segments, message):
  with pytest.raises(DataError, match=message):
    losses.segment_losses(jnp.zeros(logits), jnp.zeros(segments, int))
