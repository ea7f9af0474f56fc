"""Confusion matrices: which classes are predicted as which."""

from __future__ import annotations

import numpy as np


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, *, num_classes: int) -> np.ndarray:
  """Counts, in int64 [K, K], how many examples of class i (row) were predicted as class j (column).

  >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 1, 0]), num_classes=2).tolist()
  [[1, 0], [1, 1]]

  Args:
    labels, predicted: [N] integers from 0 to K - 1.
    num_classes: K.
  """
  cells = np.asarray(labels, np.int64) * num_classes + np.asarray(predicted, np.int64)
  return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def balanced_accuracy(confusion: np.ndarray) -> float:
  """Returns the mean over classes of the share that is predicted correctly; empty classes are left out.

  Args:
    confusion: [K, K] counts, true classes in the rows.

  Returns:
    A number from 0 to 1; NaN if there are no examples.
  """
  examples = confusion.sum(axis=1)
  there = examples > 0
  return float(np.mean(np.diag(confusion)[there] / examples[there])) if there.any() else float("nan")
