import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jaxtl import optim


def clusters(num=300, classes=4, dim=6, seed=0):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, classes, num).astype(np.int32)
  centres = rng.normal(size=(classes, dim))
  features = 3 + 5 * (centres[labels] + rng.normal(size=(num, dim)))
  return features.astype(np.float32), labels


@pytest.mark.parametrize("l2", [1e-3, 0.1])
def test_probe_is_the_optimum_that_scikit_learn_finds(l2):
  x, y = clusters()
  probe = optim.fit_probe(jnp.asarray(x), jnp.asarray(y), num_classes=4, l2=l2, tolerance=1e-6)
  standard = (x - x.mean(0)) / x.std(0)
  # scikit-learn minimises the sum of losses + |w|^2 / (2 C).
  peer = LogisticRegression(C=1 / (l2 * len(y)), tol=1e-8, max_iter=5000).fit(standard, y)
  ours = np.asarray(probe.logits(jnp.asarray(x)))
  theirs = peer.decision_function(standard)
  np.testing.assert_allclose(
    ours - ours.mean(1, keepdims=True), theirs - theirs.mean(1, keepdims=True), atol=2e-3, rtol=2e-3
  )


def test_probe_does_not_care_about_the_scale_of_features():
  x, y = clusters()
  a = optim.fit_probe(jnp.asarray(x), jnp.asarray(y), num_classes=4, l2=0.01)
  b = optim.fit_probe(jnp.asarray(100 * x - 7), jnp.asarray(y), num_classes=4, l2=0.01)
  np.testing.assert_allclose(a.logits(jnp.asarray(x)), b.logits(jnp.asarray(100 * x - 7)), atol=1e-2)


def shifted(constant, rounding, seed=0):
  """Clusters with a feature that is constant in training, up to so many roundings, and twice that at test."""
  x, y = clusters(num=600, seed=seed)
  noise = np.random.default_rng(1).integers(-1, 2, len(x)) * rounding * np.finfo(np.float32).eps
  x[:, 0] = np.float32(constant) * (1 + noise)
  test = x[300:].copy()
  test[:, 0] *= 2
  return x[:300], y[:300], test, y[300:]


@pytest.mark.parametrize("rounding", [0, 1, 4])
@pytest.mark.parametrize("constant", [0.1, -3e4, 1e-12, 0.0])
def test_a_feature_that_is_constant_up_to_rounding_is_not_blown_up(constant, rounding):
  """scikit-learn's pipeline is the reference where the constant is exact."""
  x, y, test, labels = shifted(constant, rounding)
  probe = optim.fit_probe(x, y, num_classes=4, l2=0.01)
  ours = np.asarray(probe.logits(jnp.asarray(test))).argmax(1)
  without = optim.fit_probe(x[:, 1:], y, num_classes=4, l2=0.01)
  np.testing.assert_array_equal(ours, np.asarray(without.logits(jnp.asarray(test[:, 1:]))).argmax(1))
  if not rounding:
    peer = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (0.01 * len(y)), max_iter=5000))
    assert np.mean(ours == labels) == peer.fit(x, y).score(test, labels)


@pytest.mark.parametrize("unit", [1e-30, 1e-8, 1e12])
def test_features_count_whatever_their_unit(unit):
  x, y = clusters()
  probe = optim.fit_probe(x, y, num_classes=4, l2=0.01)
  scaled = (x * unit).astype(np.float32)
  other = optim.fit_probe(scaled, y, num_classes=4, l2=0.01)
  np.testing.assert_allclose(probe.logits(jnp.asarray(x)), other.logits(jnp.asarray(scaled)), atol=1e-2)


def test_a_small_signal_on_a_large_mean_counts():
  """A thousandth of a feature's mean is far above rounding."""
  x, y = clusters()
  large = 1000 + 0.1 * x
  a = optim.fit_probe(x, y, num_classes=4, l2=0.01)
  b = optim.fit_probe(large.astype(np.float32), y, num_classes=4, l2=0.01)
  np.testing.assert_allclose(a.logits(jnp.asarray(x)), b.logits(jnp.asarray(large)), atol=2e-2)


def test_bfloat16_features_are_constant_up_to_their_own_rounding():
  x, y = clusters()
  x[:, 0] = 1 + 2**-8 * np.random.default_rng(0).integers(0, 2, len(x))
  features = jnp.asarray(x, jnp.bfloat16)
  assert float(optim.fit_probe(features, y, num_classes=4, l2=0.01).scale[0]) == 1.0


def test_the_penalty_is_chosen_on_the_held_out_part():
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(60, 50)).astype(np.float32), rng.integers(0, 3, 60).astype(np.int32)
  # Labels are noise: the strongest penalty loses least on held-out data.
  keywords = dict(num_classes=3, held_out=0.3, seed=0)
  assert optim.choose_probe(x, y, l2_grid=(1e-4, 1e-2, 10.0), **keywords)[1] == 10.0
  assert optim.choose_probe(x, y, l2_grid=(1e-4,), **keywords)[1] == 1e-4
  x, y = clusters()
  assert optim.choose_probe(x, y, l2_grid=(1e-3, 100.0), num_classes=4, held_out=0.3, seed=0)[1] == 1e-3


def test_a_probe_says_whether_it_converged():
  x, y = clusters()
  done = optim.fit_probe(x, y, num_classes=4, l2=0.1)
  cut = optim.fit_probe(x, y, num_classes=4, l2=0.1, max_iters=2)
  assert bool(done.converged)
  assert 2 < int(done.num_iters) < 500
  assert not bool(cut.converged)
  assert int(cut.num_iters) == 2
