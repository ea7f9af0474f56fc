"""Confusion and balanced accuracy against scikit-learn's."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from jaxtl.metrics import balanced_accuracy, confusion_matrix


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("num_classes", [2, 5, 40])
def test_both_are_scikit_learns(num_classes):
  rng = np.random.default_rng(num_classes)
  labels = rng.integers(0, max(num_classes - 1, 1), 300).astype(np.int32)  # the last class has no example
  predicted = rng.integers(0, num_classes, 300).astype(np.int32)
  found = confusion_matrix(labels, predicted, num_classes=num_classes)
  expected = sklearn_metrics.confusion_matrix(labels, predicted, labels=np.arange(num_classes))
  np.testing.assert_array_equal(found, expected)
  assert balanced_accuracy(found) == pytest.approx(sklearn_metrics.balanced_accuracy_score(labels, predicted))


def test_a_rare_class_counts_as_much_as_a_frequent_one():
  labels = np.repeat([0, 1], [98, 2])
  assert balanced_accuracy(confusion_matrix(labels, np.zeros(100, int), num_classes=2)) == 0.5


def test_no_example_is_nan():
  assert np.isnan(balanced_accuracy(np.zeros((3, 3), np.int64)))
