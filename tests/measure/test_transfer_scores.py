"""Every score of one weight: the same numbers as the metric, and a reason where there is none."""

import json

import numpy as np
import pytest

from jaxtl.errors import ConfigError
from jaxtl.measure import transfer_scores as scoring
from jaxtl.measure.transfer_scores import SCORES, Observed
from jaxtl.metrics import transferability as t
from tests.metrics.transferability.examples import clusters


@pytest.fixture(scope="module")
def observed():
  features, labels = clusters()
  logits = np.random.default_rng(3).normal(size=(len(labels), 20)) + np.eye(20)[labels]
  return Observed(features, labels, logits)


def test_every_score_is_that_of_the_metric(observed):
  x, y = observed.features, observed.labels
  statistics, nearest = t.statistics_of(x, y), t.neighbours(x)
  expected = {
    "ridge": t.ridge(x, y),
    "h_score": t.h_score(statistics),
    "logme": t.logme(statistics),
    "lfc": t.lfc(statistics),
    "gbc": t.gbc(t.projected(statistics, x, y)),
    "knn_1": t.knn(nearest, y, k=1),
    "knn_5": t.knn(nearest, y, k=5),
    "sfda": t.sfda(x, y),
    "leep": t.leep(observed.logits, y),
    "nce": t.nce(observed.logits, y),
    "nc1": t.nc1(statistics),
    "effective_rank": t.effective_rank(statistics),
    "participation_ratio": t.participation_ratio(statistics),
    "intrinsic_dimension": t.intrinsic_dimension(nearest),
    "parc": t.parc(x, y),
    "transrate": t.transrate(x, y),
    "plain_h_score": t.h_score(statistics, shrinkage=0),
  }
  rows, terms = scoring.score_all(observed, list(expected))
  assert {name: row["value"] for name, row in rows.items()} == pytest.approx(
    {name: float(score) for name, score in expected.items()}, rel=1e-9
  )
  for name, found in terms.items():
    assert found.mean() == pytest.approx(rows[name]["value"], abs=1e-12)
  # Whatever can order weights has terms, or follows from moments.
  assert {"ridge", "knn_1", "knn_5", "sfda", "leep", "nce"} == set(terms)
  assert all(name in terms or SCORES[name].from_moments for name in scoring.ORDERS if name in expected)
  json.dumps(rows, allow_nan=False)


def test_the_probe_tells_clusters_apart():
  rng = np.random.default_rng(0)
  labels = np.arange(60) % 3
  features = (rng.normal(size=(60, 4)) + 6 * np.eye(4)[labels]).astype(np.float32)
  rows, terms = scoring.score_all(Observed(features, labels), ["probe"])
  assert rows["probe"]["value"] > 0.95
  assert len(terms["probe"]) == 60


def test_a_score_that_cannot_be_computed_says_why_and_the_others_are_there(observed):
  headless = Observed(observed.features, observed.labels)
  rows, _ = scoring.score_all(headless, ["leep", "ridge"])
  assert "no source head" in rows["leep"]["left_out"]
  assert "value" in rows["ridge"]
  broken = observed.features.copy()
  broken[3, 2] = np.nan
  rows, terms = scoring.score_all(Observed(broken, observed.labels, observed.logits), scoring.DEFAULT)
  # The head's own predictions are finite.
  assert {name for name, row in rows.items() if "value" in row} == {"leep", "nce"}
  assert "1 of 400 images have a NaN or an infinity" in rows["ridge"]["left_out"]
  assert set(terms) == {"leep", "nce"}


@pytest.mark.parametrize(
  ("labels", "left_out"),
  [
    # One image of each class: nothing can be left out, and no class has a spread.
    (np.arange(8), {"ridge", "gbc", "sfda"}),
    # One class: nothing is told apart.
    (np.zeros(8, int), {"ridge", "h_score", "logme", "lfc", "gbc", "knn_1", "knn_5", "sfda", "nc1"}),
    (np.array([0, 0, 0, 1, 1, 1, 1, 2]), set()),
  ],
)
def test_few_images_of_a_class_leave_out_what_needs_more(labels, left_out):
  features = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
  rows, _ = scoring.score_all(Observed(features, labels), scoring.DEFAULT)
  missing = {name for name, row in rows.items() if "left_out" in row} - {"leep", "nce"}
  assert missing >= left_out
  assert left_out or not missing


def test_constant_features_are_finite_or_left_out():
  rows, _ = scoring.score_all(Observed(np.ones((12, 4), np.float32), np.arange(12) % 3), scoring.DEFAULT)
  assert all("left_out" in row or np.isfinite(row["value"]) for row in rows.values())
  assert rows["h_score"]["value"] == 0
  assert "constant" in rows["effective_rank"]["left_out"]


def test_counts_of_images_are_repeated_images(observed):
  counts = np.random.default_rng(1).multinomial(400, np.full(400, 1 / 400))
  again = np.repeat(np.arange(400), counts)
  repeated = Observed(observed.features[again], observed.labels[again])
  for name in ("h_score", "logme", "lfc"):
    [value] = scoring.moment_values(observed, name, counts[None])
    assert value == pytest.approx(float(SCORES[name].compute(repeated)), rel=1e-6)


def test_counts_of_one_are_the_score_itself(observed):
  wide = np.hstack([observed.features, np.random.default_rng(2).normal(size=(400, 60))])
  there = Observed(wide, observed.labels)
  for name in ("h_score", "logme", "lfc", "gbc", "plain_h_score"):
    [value] = scoring.moment_values(there, name, np.ones((1, 400), int))
    assert value == pytest.approx(float(SCORES[name].compute(there)), rel=1e-6)


def test_permuted_labels_put_accuracies_at_chance(observed):
  for name in ("ridge", "knn_1", "knn_5"):
    null = scoring.label_null(observed, name, num_permutations=10)
    # 10 permutations of 400 images of 8 classes: the standard error of the mean is below 0.0053.
    assert abs(null["null_mean"] - 1 / 8) < 5 * 0.0053
    assert null["z"] > 10


def test_unknown_scores_and_orders_are_one_line():
  assert scoring.check_scores(["knn_1", "ridge"], by="logme") == ("ridge", "logme", "knn_1")
  assert scoring.check_scores(["all"], by="ridge") == tuple(SCORES)
  with pytest.raises(ConfigError, match="no score 'h'; expected some of ridge, h_score"):
    scoring.check_scores(["h"], by="ridge")
  for name in ("nc1", "n_leep", "accuracy"):
    with pytest.raises(ConfigError, match=f"cannot be ordered by '{name}'; expected one of ridge"):
      scoring.check_scores([], by=name)
