"""Scores of what the source head predicts on target images: LEEP and NCE.

Both need the checkpoint's own head with its Z source classes. Both grow with Z, so values of checkpoints with
different Z are not comparable; `details["source_classes"]` holds Z.
"""

from __future__ import annotations

import numpy as np
import scipy.special

from jaxtl.errors import ConfigError
from jaxtl.metrics.transferability.score import Score, ScoreError, compact, mean_score


def leep(logits: np.ndarray | None, labels: np.ndarray) -> Score:
  """Computes the mean log-likelihood of labels, by the source head and the empirical P(label | source class).

  Nguyen, Hassner, Seeger, Archambeau, "LEEP: A New Measure to Evaluate Transferability of Learned
  Representations", 2020, arXiv 2002.12462. The logarithm is kept, and everything is computed in logarithms,
  since the probabilities of a saturated head underflow. Some released versions leave the logarithm out, and
  some swap the roles of source and target.

  >>> import numpy as np
  >>> float(leep(np.log([[0.9, 0.1], [0.1, 0.9]]), np.array([0, 1]))).__round__(4)
  -0.1985

  Args:
    logits: [N, Z] source logits; log-probabilities are logits too, and -inf is a probability of 0. None means
      that the checkpoint has no head.
    labels: int [N] target classes.

  Returns:
    A value in (-inf, 0], larger is better, with its standard error over images for fixed P(y | z). Details:
    "source_classes".

  Raises:
    ConfigError: shapes do not fit.
    ScoreError: the checkpoint has no head, a logit is NaN or +inf, or fewer than two classes have images.
  """
  _, labels = compact(labels)
  log_theta = _log_probabilities(logits, len(labels))
  joint = np.stack(
    [scipy.special.logsumexp(log_theta[labels == number], axis=0) for number in range(labels.max() + 1)]
  )
  marginal = scipy.special.logsumexp(joint, axis=0)
  mass = np.isfinite(marginal)
  conditional = joint[:, mass] - marginal[mass]
  terms = scipy.special.logsumexp(conditional[labels] + log_theta[:, mass], axis=1)
  return mean_score(np.minimum(terms, 0.0), source_classes=log_theta.shape[1])


def nce(logits: np.ndarray | None, labels: np.ndarray) -> Score:
  """Computes the negative conditional entropy -H(label | predicted source class), in nats.

  Tran, Nguyen, Hassner, "Transferability and Hardness of Supervised Classification Tasks", 2019, arXiv
  1908.08142. There is no epsilon: 0 log 0 = 0. With few images per source class the value is biased towards
  0, and permuted labels show by how much.

  Args:
    logits: [N, Z] source logits or probabilities; the lowest index wins a tie. None as in `leep`.
    labels: int [N] target classes.

  Returns:
    A value in [-H(label), 0], larger is better. Details: "source_classes".

  Raises:
    ConfigError, ScoreError: as in `leep`.
  """
  _, labels = compact(labels)
  log_theta = _log_probabilities(logits, len(labels))
  num_source, predicted = log_theta.shape[1], log_theta.argmax(axis=1)
  counts = np.zeros((labels.max() + 1, num_source))
  np.add.at(counts, (labels, predicted), 1)
  conditional = counts[labels, predicted] / counts.sum(axis=0)[predicted]
  return mean_score(np.log(conditional), source_classes=num_source)


def _log_probabilities(logits: np.ndarray | None, num: int) -> np.ndarray:
  if logits is None:
    raise ScoreError("the checkpoint has no source head; LEEP and NCE need its logits")
  logits = np.asarray(logits, np.float64)
  if logits.ndim != 2 or len(logits) != num or not logits.shape[1]:
    raise ConfigError(f"logits have shape {logits.shape}; expected [{num}, Z], one row per label")
  if np.isnan(logits).any() or np.isposinf(logits).any() or np.isneginf(logits).all(axis=1).any():
    raise ScoreError("a logit is NaN or infinite")
  return scipy.special.log_softmax(logits, axis=1)
