"""The controls of 400 images, digit by digit against independent scripts, and moments of float32."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtl import metrics
from jaxtl.metrics import transferability as t
from tests.metrics.transferability.examples import clusters


def cases():
  """Gaussian classes with 32 informative columns; the draws before them are those of the scripts."""
  rng = np.random.default_rng(0)
  rng.normal(size=(60, 12)), rng.normal(size=(12, 12))
  rng.integers(0, 4, 40), rng.normal(size=(40, 15)), rng.normal(size=(4, 15))
  labels = np.arange(400) % 8
  features = rng.normal(size=(400, 32)) + 0.9 * np.eye(8)[labels] @ rng.normal(size=(8, 32))
  noise = rng.normal(size=(400, 300))
  rng.normal(size=(32, 32))
  return {
    "plain": (features, labels),
    "permuted": (features, rng.permutation(labels)),
    "noise": (np.hstack([features, noise]), labels),
    "offset": (features + 5, labels),
    "few": (features[:40], labels[:40]),
  }


CASES = cases()
SCORES = (
  lambda x, y: t.h_score(t.statistics_of(x, y), shrinkage=0),
  lambda x, y: t.h_score(t.statistics_of(x, y)),
  lambda x, y: t.logme(t.statistics_of(x, y)),
  lambda x, y: t.gbc(t.statistics_of(x, y)),
  lambda x, y: t.lfc(t.statistics_of(x, y)),
  t.sfda,
  lambda x, y: t.knn(t.neighbours(x), y, metric="euclidean"),
)
VALUES = {
  "plain": (5.2586, 5.0472, 0.1736, -0.0032, 0.6689, 0.9278, 0.9550),
  "permuted": (0.5394, 0.4761, -0.3582, -0.8328, 0.0278, 0.1347, 0.1325),
  "noise": (6.6929, 3.4356, -0.0162, -0.0007, 0.4015, 1.0000, 0.6650),
  "offset": (5.2586, 5.0472, 0.2456, -0.0032, 0.6689, 0.9278, 0.9550),
  "few": (6.7447, 4.3355, -0.1088, -0.0003, 0.7082, 1.0000, 0.9250),
}


@pytest.mark.parametrize("case", VALUES)
def test_scores_have_their_digits(case):
  found = [float(score(*CASES[case])) for score in SCORES]
  np.testing.assert_allclose(found, VALUES[case], atol=6e-5)


@pytest.mark.parametrize(("case", "value"), [("plain", 9.6130), ("noise", 346.124)])
def test_transrate_has_its_digits(case, value):
  """The scripts scale by the mean square of raw features, which is 1 % more."""
  assert float(t.transrate(*CASES[case])) == pytest.approx(value, rel=0.02)


def test_gbc_on_principal_axes_has_its_digits():
  features, labels = CASES["noise"]
  on_axes = t.projected(t.statistics_of(features, labels), features, labels)
  assert float(t.gbc(on_axes)) == pytest.approx(-0.043667, abs=1e-6)


def test_ridge_has_its_digits():
  rng = np.random.default_rng(0)
  labels = np.arange(400) % 8
  features = rng.normal(size=(400, 32)) + 0.9 * np.eye(8)[labels] @ rng.normal(size=(8, 32))
  noise = rng.normal(size=(400, 300))
  np.testing.assert_array_equal(features, clusters()[0])
  plain, noisy = t.ridge(features, labels), t.ridge(np.hstack([features, noise]), labels)
  assert (float(plain), plain.details["penalty"]) == pytest.approx((0.9925, 0.1))
  assert (float(noisy), noisy.details["penalty"]) == pytest.approx((0.985, 1.0))
  permuted = [0.142, 0.11, 0.108, 0.125, 0.128, 0.142, 0.122, 0.115]
  found = [float(t.ridge(features, rng.permutation(labels), seed=seed)) for seed in range(8)]
  np.testing.assert_allclose(found, permuted, atol=6e-4)


@pytest.mark.parametrize("case", ["plain", "noise", "offset"])
def test_moments_of_a_device_have_the_scores_of_the_host(case):
  features, labels = CASES[case]
  shift = jnp.asarray(features[:64].mean(axis=0), jnp.float32)
  sums = metrics.batch_moments(
    jnp.asarray(features, jnp.float32), jnp.asarray(labels), jnp.ones(400, bool), shift, num_classes=8
  )
  device = t.class_statistics(metrics.on_host(sums))
  host = t.statistics_of(features, labels)
  for score in (t.h_score, t.lfc, t.logme, t.gbc, t.nc1, t.effective_rank, t.participation_ratio):
    assert float(score(device)) == pytest.approx(float(score(host)), rel=1e-4, abs=1e-6), score


def test_ridge_from_the_moments_of_a_device_survives_a_singular_scatter():
  """320 training images, 332 features: float32 leaves negative eigenvalues."""
  features, labels = CASES["noise"]
  folds = t.stratified_folds(labels)
  masks = metrics.fold_masks(jnp.asarray(folds), jnp.ones(400, bool))
  sums = metrics.batch_moments(
    jnp.asarray(features, jnp.float32), jnp.asarray(labels), masks, jnp.zeros(332), num_classes=8
  )
  fits = t.fit_ridge_folds(metrics.on_host(sums))
  hits = t.ridge_hits(fits, features, labels, folds)
  assert hits.mean() == pytest.approx(float(t.ridge(features, labels)), abs=0.01)
  tiny = t.fit_ridge_folds(metrics.on_host(sums), penalties=(1e-8,))
  assert np.isfinite(tiny.kernel).all()
