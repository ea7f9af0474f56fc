"""LEEP and NCE: identities of their papers, and what a swap of source and target would change."""

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from jaxtl.errors import ConfigError
from jaxtl.metrics import transferability as t
from tests.metrics.transferability.examples import LABELS, THETA


def random_case(num=60, classes=4, source=9, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(num, source)) * 2, rng.integers(0, classes, num)


def entropy(labels):
  share = np.bincount(labels)[np.bincount(labels) > 0] / len(labels)
  return -np.sum(share * np.log(share))


def leep_by_definition(theta, labels):
  joint = np.stack([theta[labels == c].sum(axis=0) for c in range(labels.max() + 1)]) / len(labels)
  conditional = joint / joint.sum(axis=0)
  return np.mean([np.log(conditional[y] @ p) for y, p in zip(labels, theta)])


@pytest.mark.parametrize("seed", range(3))
def test_leep_is_its_definition(seed):
  logits, labels = random_case(seed=seed)
  theta = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  score = t.leep(logits, labels)
  assert float(score) == pytest.approx(leep_by_definition(theta, labels), abs=1e-12)
  assert score.details["source_classes"] == 9
  assert score.per_example.mean() == score.value
  assert score.standard_error == pytest.approx(score.per_example.std() / np.sqrt(60))


def test_a_head_that_knows_the_target_is_perfect():
  labels = np.array([0, 1, 2, 2, 1])
  with np.errstate(divide="ignore"):
    assert float(t.leep(np.log(np.eye(3)[labels]), labels)) == pytest.approx(0, abs=1e-12)
  assert float(t.nce(np.eye(3)[labels], labels)) == 0


def test_a_constant_head_knows_the_class_shares():
  _, labels = random_case()
  assert float(t.leep(np.zeros((60, 9)), labels)) == pytest.approx(-entropy(labels))
  assert float(t.nce(np.zeros((60, 9)), labels)) == pytest.approx(-entropy(labels))


@pytest.mark.parametrize("seed", range(3))
def test_leep_is_bounded_below_by_nce(seed):
  logits, labels = random_case(seed=seed)
  best = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).max(axis=1)
  assert float(t.leep(logits, labels)) >= float(t.nce(logits, labels)) + best.mean() - 1e-12
  example = np.log(THETA)
  bound = float(t.nce(example, LABELS)) + example.max(axis=1).mean()
  assert bound == pytest.approx(-0.9112, abs=1e-4)
  assert float(t.leep(example, LABELS)) >= bound


@pytest.mark.parametrize("score", [t.leep, t.nce])
def test_names_of_classes_and_copies_of_images_change_nothing(score):
  logits, labels = random_case()
  value = float(score(logits, labels))
  order = np.random.default_rng(1).permutation(9)
  assert float(score(logits[:, order], labels)) == pytest.approx(value)
  assert float(score(np.tile(logits, (2, 1)), np.tile(labels, 2))) == pytest.approx(value)
  assert float(score(logits, 7 * labels + 3)) == pytest.approx(value)
  # A source class that is never likely
  assert float(score(np.pad(logits, ((0, 0), (0, 1)), constant_values=-np.inf), labels)) == pytest.approx(
    value
  )


@pytest.mark.parametrize("seed", range(3))
def test_nce_is_mutual_information_minus_entropy(seed):
  logits, labels = random_case(seed=seed)
  expected = mutual_info_score(labels, logits.argmax(axis=1)) - entropy(labels)
  assert float(t.nce(logits, labels)) == pytest.approx(expected, abs=1e-12)


def test_a_swap_of_source_and_target_gives_another_number():
  logits, labels = random_case()
  value = float(t.nce(logits, labels))
  swapped = float(t.nce(np.eye(4)[labels], logits.argmax(axis=1)))
  assert abs(swapped - value) > 0.01
  for score in (t.leep, t.nce):
    with pytest.raises(ConfigError, match="labels second"):
      score(labels, logits)


def test_a_saturated_head_does_not_underflow():
  """The true class has a probability of exp(-2000): its logarithm is finite where the probability is 0."""
  logits = np.array([[0, -2000.0], [-2000, 0], [0, -2000], [-2000, 0]])
  labels = np.array([0, 1, 1, 0])
  assert float(t.leep(logits, labels)) == pytest.approx(np.log(0.5))
  assert float(t.leep(logits, np.array([0, 1, 0, 1]))) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(bad):
  logits, labels = random_case()
  logits[3, 1] = bad
  for score in (t.leep, t.nce):
    with pytest.raises(t.ScoreError, match="logit is NaN or infinite"):
      score(logits, labels)


@pytest.mark.parametrize("score", [t.leep, t.nce])
def test_a_weight_without_a_head_has_no_score(score):
  with pytest.raises(t.ScoreError, match="no source head"):
    score(None, LABELS)
  with pytest.raises(ConfigError, match=r"expected \[8, Z\]"):
    score(np.zeros((7, 3)), LABELS)
