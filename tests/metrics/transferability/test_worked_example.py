"""Every score of one example of 8 images, against values from independent scripts."""

import numpy as np
import pytest

from jaxtl.metrics import transferability as t
from tests.metrics.transferability.examples import FEATURES, LABELS, THETA, WIDE, WIDE_LABELS, rotation

STATISTICS = t.statistics_of(FEATURES, LABELS)
LOGITS = np.log(THETA)
# The scripts take an absolute floor of 1e-4, and no unit of length.
FLOOR = 1e-4 / (STATISTICS.total_variance / 3)
UNIT = STATISTICS.total_variance
NEAREST = t.neighbours(FEATURES, num=2)

VALUES = {
  "LEEP": (lambda: t.leep(LOGITS, LABELS), -0.889571),
  "NCE": (lambda: t.nce(LOGITS, LABELS), -0.411980),
  "H": (lambda: t.h_score(STATISTICS, shrinkage=0), 1.597701),
  "shrinkage": (lambda: t.ledoit_wolf(STATISTICS), 0.558420),
  "H, regularised": (lambda: t.h_score(STATISTICS), 0.794223),
  "LogME": (lambda: t.logme(STATISTICS), -0.593759),
  "GBC, spherical": (lambda: t.gbc(STATISTICS, floor=FLOOR), -0.066940),
  "GBC, diagonal": (lambda: t.gbc_diagonal(STATISTICS, floor=FLOOR), -0.225835 / 6),
  "TransRate, 1e-4": (lambda: t.transrate(FEATURES, LABELS, epsilon=1e-4 / UNIT), 2.292783),
  "TransRate, 1": (lambda: t.transrate(FEATURES, LABELS, epsilon=1 / UNIT), 0.181251),
  "LFC": (lambda: t.lfc(STATISTICS), 0.671519),
  "PARC": (lambda: t.parc(FEATURES, LABELS), 0.576899),
  "1-NN": (lambda: t.knn(NEAREST, LABELS, metric="euclidean"), 0.875),
  "SFDA": (lambda: t.sfda(FEATURES, LABELS), 0.823234),
  "SFDA's shrinkage": (lambda: t.sfda(FEATURES, LABELS).details["shrinkage"], 0.036468),
  "SFDA's mixing": (lambda: t.sfda(FEATURES, LABELS).details["mixing"], 0.568551),
  "discriminant": (
    lambda: t.discriminant_posteriors(FEATURES, LABELS, shrinkage=0.1)[np.arange(8), LABELS].mean(),
    0.979418,
  ),
  "NC1": (lambda: t.nc1(STATISTICS), 0.187296),
  "effective rank": (lambda: t.effective_rank(STATISTICS), 2.119212),
  "participation": (lambda: t.participation_ratio(STATISTICS), 1.866488),
  "TwoNN": (lambda: t.intrinsic_dimension(NEAREST), 3.031883),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_score_has_its_worked_value(name):
  score, expected = VALUES[name]
  assert float(score()) == pytest.approx(expected, abs=1e-6)


def test_the_evidence_of_each_class_has_its_worked_value():
  found = t.log_evidence(STATISTICS)
  np.testing.assert_allclose(found.value, [-0.619507, -0.731276, -0.430493], atol=1e-6)
  np.testing.assert_allclose(found.alpha, [18.7173, 19.2694, 52.1664], atol=1e-4)
  np.testing.assert_allclose(found.beta, [13.5452, 9.5157, 14.4161], atol=1e-4)
  np.testing.assert_allclose(found.floor, [-0.928524, -0.928524, -0.725791], atol=1e-6)


@pytest.mark.parametrize("features", [WIDE, 10 * WIDE, WIDE @ rotation(6), np.pad(WIDE, ((0, 0), (0, 5)))])
def test_the_evidence_of_fewer_images_than_features_has_its_worked_value(features):
  found = t.log_evidence(t.statistics_of(features, WIDE_LABELS))
  np.testing.assert_allclose(found.value, [-0.592422, -0.819440], atol=1e-6)
  assert float(t.logme(t.statistics_of(features, WIDE_LABELS))) == pytest.approx(-0.705931, abs=1e-6)
