import functools

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jaxtl import optim
from jaxtl.errors import NonFiniteError
from jaxtl.optim import linear_probe


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


def few(each, classes=5, dim=8, seed=0):
  """As many examples of every class, in mixed order."""
  rng = np.random.default_rng(seed)
  labels = rng.permutation(np.repeat(np.arange(classes, dtype=np.int32), each))
  features = rng.normal(size=(classes, dim))[labels] + 0.7 * rng.normal(size=(len(labels), dim))
  return features.astype(np.float32), labels


def watched(fit, parts, features, labels, **keywords):
  """`fit`, with the labels that it uses kept in `parts`."""
  parts.append(labels[keywords["use"]] if "use" in keywords else labels)
  return fit(features, labels, **keywords)


GRID = (1e-3, 0.03, 1.0, 30.0)
KEYWORDS = dict(num_classes=5, held_out=0.2, seed=0)


def test_with_one_example_a_class_nothing_is_chosen():
  x, y = few(1)
  for grid in (GRID, GRID[::-1], (1.0, 30.0, 1e-3, 0.03)):
    chosen = optim.choose_probe(x, y, l2_grid=grid, **KEYWORDS)
    assert (chosen.l2, chosen.by) == (1.0, "nothing")
  assert optim.choose_probe(x, y, l2_grid=(3.0,), **KEYWORDS)[1:] == (3.0, "given")


@pytest.mark.parametrize("seed", range(3))
def test_below_three_examples_a_class_the_penalty_is_scikit_learns_leave_one_out(seed):
  x, y = few(2, seed=seed)
  losses = []
  for l2 in GRID:
    peer = make_pipeline(
      StandardScaler(), LogisticRegression(C=1 / (l2 * (len(y) - 1)), max_iter=5000, tol=1e-6)
    )
    found = cross_val_predict(peer, x, y, cv=LeaveOneOut(), method="predict_log_proba")
    losses.append(-np.mean(found[np.arange(len(y)), y]))
  for grid in (GRID, GRID[::-1]):
    chosen = optim.choose_probe(x, y, l2_grid=grid, **KEYWORDS)
    assert (chosen.l2, chosen.by) == (GRID[np.argmin(losses)], "leave_one_out")


def test_many_classes_of_two_are_left_out_in_parts_and_no_class_is_lost(monkeypatch):
  x, y = few(2, classes=60)
  parts = []
  fit = linear_probe.fit_probe
  monkeypatch.setattr(linear_probe, "fit_probe", functools.partial(watched, fit, parts))
  chosen = optim.choose_probe(x, y, l2_grid=(1e-2, 1.0), num_classes=60, held_out=0.2, seed=0, max_iters=1)
  assert chosen.by == "leave_one_out"
  assert len(parts) == 2 * linear_probe.MOST_FOLDS + 1
  assert all(len(np.unique(part)) == 60 for part in parts)
  assert sum(len(y) - len(part) for part in parts) == 2 * len(y)


@pytest.mark.parametrize("each", [3, 4, 5, 10])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.9])
def test_each_class_holds_out_at_least_one_and_keeps_one(each, share, monkeypatch):
  x, y = few(each)
  parts = []
  fit = linear_probe.fit_probe
  monkeypatch.setattr(linear_probe, "fit_probe", functools.partial(watched, fit, parts))
  chosen = optim.choose_probe(x, y, l2_grid=(1.0, 0.1), num_classes=5, held_out=share, seed=0, max_iters=1)
  assert chosen.by == "held_out"
  kept = np.bincount(parts[0], minlength=5)
  assert 1 <= kept.min() == kept.max() < each


def test_a_single_example_of_a_class_stays_in():
  """Most classes have fewer than three, or few have."""
  x, y = few(6)
  for sizes, by in (((1, 1, 2, 6, 6), "leave_one_out"), ((1, 2, 6, 6, 6), "held_out")):
    kept = np.concatenate([np.flatnonzero(y == number)[:size] for number, size in enumerate(sizes)])
    chosen = optim.choose_probe(x[kept], y[kept], l2_grid=GRID, **KEYWORDS)
    assert chosen.by == by
    assert chosen.l2 == optim.choose_probe(x[kept], y[kept], l2_grid=GRID[::-1], **KEYWORDS).l2


def test_equal_penalties_do_not_depend_on_the_order_of_the_grid():
  """Features without a word to say: every penalty gives the same probe, and the largest is taken."""
  x, y = np.ones((30, 3), np.float32), np.arange(30, dtype=np.int32) % 3
  for grid in ((1e-3, 1.0), (1.0, 1e-3)):
    assert optim.choose_probe(x, y, l2_grid=grid, num_classes=3, held_out=0.2, seed=0).l2 == 1.0


def test_a_part_is_fitted_as_if_it_were_all():
  x, y = clusters()
  use = np.arange(len(y)) % 3 > 0
  a = optim.fit_probe(x, y, num_classes=4, l2=0.01, use=use)
  b = optim.fit_probe(x[use], y[use], num_classes=4, l2=0.01)
  np.testing.assert_allclose(a.logits(jnp.asarray(x)), b.logits(jnp.asarray(x)), atol=1e-4)


def test_features_that_are_not_finite_are_refused():
  x, y = clusters()
  x[3, 2] = np.nan
  with pytest.raises(NonFiniteError, match="the features have a NaN"):
    optim.choose_probe(x, y, l2_grid=(1.0,), num_classes=4, held_out=0.2, seed=0)


def test_a_probe_says_whether_it_converged():
  x, y = clusters()
  done = optim.fit_probe(x, y, num_classes=4, l2=0.1)
  cut = optim.fit_probe(x, y, num_classes=4, l2=0.1, max_iters=2)
  assert bool(done.converged)
  assert 2 < int(done.num_iters) < 500
  assert not bool(cut.converged)
  assert int(cut.num_iters) == 2


def test_a_probe_whose_last_step_leads_out_of_the_tolerance_is_the_one_before_it():
  """Rare classes make L-BFGS overshoot: what is returned has the gradient that ended the search."""
  rng = np.random.default_rng(1)
  for _ in range(20):
    labels = np.sort(rng.choice(5, 300, p=[0.9, 0.025, 0.025, 0.025, 0.025]))
    labels[:5] = np.arange(5)
    features = (rng.standard_normal((5, 6))[labels] + rng.standard_normal((300, 6))).astype(np.float32)
    for l2 in (1e-3, 1e3):
      probe = optim.fit_probe(features, labels, num_classes=5, l2=l2)
      assert int(probe.num_iters) < 500
      assert bool(probe.converged)
      assert gradient_norm(probe, features, labels, l2) <= 2e-4 * gradient_at_zero(features, labels)


def gradient_norm(probe, features, labels, l2):
  """In float64, without automatic derivatives."""
  standard = (features.astype(np.float64) - np.asarray(probe.mean)) / np.asarray(probe.scale)
  kernel = np.asarray(probe.kernel, np.float64)
  logits = standard @ kernel + np.asarray(probe.bias, np.float64)
  shares = np.exp(logits - logits.max(axis=1, keepdims=True))
  apart = shares / shares.sum(axis=1, keepdims=True) - np.eye(kernel.shape[1])[labels]
  parts = standard.T @ apart / len(labels) + l2 * kernel, apart.mean(axis=0)
  return np.sqrt(sum(np.sum(part**2) for part in parts))


def gradient_at_zero(features, labels):
  standard = StandardScaler().fit_transform(features.astype(np.float64))
  apart = 1 / 5 - np.eye(5)[labels]
  return np.sqrt(np.sum((standard.T @ apart / len(labels)) ** 2) + np.sum(apart.mean(axis=0) ** 2))


def test_a_probe_that_begins_at_its_optimum_has_converged():
  probe = optim.fit_probe(np.ones((20, 8), np.float32), np.repeat([0, 1], 10), num_classes=2, l2=1e-2)
  assert bool(probe.converged)
  assert int(probe.num_iters) <= 1


@pytest.mark.parametrize("features", [np.full((9, 2), 3e38, np.float32), np.full((9, 2), -1e100)])
def test_features_beyond_the_range_of_float32_are_refused(features):
  features = features * np.linspace(-1, 1, 9).reshape(9, 1).astype(features.dtype)
  with pytest.raises(NonFiniteError, match=r"as large as [0-9.e+]+; expected at most 1\.7e\+38"):
    optim.choose_probe(
      features, np.repeat([0, 1, 2], 3), num_classes=3, l2_grid=(0.1, 1.0), held_out=0.3, seed=0
    )
