"""Feature sets that the tests of several scores share."""

import numpy as np

# A worked example small enough for a hand: 8 images, 3 features, 3 classes, 3 source classes.
LABELS = np.array([0, 0, 0, 1, 1, 1, 2, 2])
FEATURES = np.array(
  [[2, 0, 1], [3, 1, 0], [2, 1, 1], [0, 2, 1], [1, 3, 0], [1, 1, 2], [0, 0, 3], [1, 0, 4]], np.float64
)
THETA = np.array(
  [
    [0.8, 0.1, 0.1],
    [0.6, 0.3, 0.1],
    [0.5, 0.25, 0.25],
    [0.1, 0.8, 0.1],
    [0.2, 0.2, 0.6],
    [0.1, 0.1, 0.8],
    [0.25, 0.25, 0.5],
    [0.3, 0.4, 0.3],
  ]
)
# Fewer images than features
WIDE = np.array([[1, 2, 0, 1, 0, 3], [0, 1, 1, 0, 2, 1], [2, 2, 1, 1, 0, 4], [1, 0, 3, 0, 3, 0]], np.float64)
WIDE_LABELS = np.array([0, 1, 0, 1])


def clusters(num=400, dim=32, classes=8, spread=0.9, seed=0):
  """Gaussian classes of unit variance whose means are `spread` times Gaussian."""
  rng = np.random.default_rng(seed)
  labels = np.arange(num) % classes
  return rng.normal(size=(num, dim)) + spread * rng.normal(size=(classes, dim))[labels], labels


def noise(num=400, dim=300, seed=1):
  return np.random.default_rng(seed).normal(size=(num, dim))


def rotation(dim, seed=2):
  return np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]
