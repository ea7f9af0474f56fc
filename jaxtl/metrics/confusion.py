"""Which classes are taken for which."""

from __future__ import annotations

import numpy as np


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, *, num_classes: int) -> np.ndarray:
  """int64 [K, K]: how many examples of class i (row) were predicted as class j (column).

  Args:
    labels, predicted: [N] integers from 0 to K - 1.
    num_classes: K.
  """
  cells = np.asarray(labels, np.int64) * num_classes + np.asarray(predicted, np.int64)
  return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def balanced_accuracy(confusion: np.ndarray) -> float:
  """The mean over classes of the share predicted right; classes without an example are left out.

  Args:
    confusion: [K, K] counts, true classes in the rows.

  Returns:
    From 0 to 1; NaN where there is no example at all.
  """
  examples = confusion.sum(axis=1)
  there = examples > 0
  return float(np.mean(np.diag(confusion)[there] / examples[there])) if there.any() else float("nan")
