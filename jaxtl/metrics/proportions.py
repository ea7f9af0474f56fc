"""The uncertainty of an accuracy on a finite number of images."""

from __future__ import annotations

import math

# The 97.5th percentile of the standard normal distribution.
_Z95 = 1.959963984540054


def wilson_interval(share: float, count: int, *, z: float = _Z95) -> tuple[float, float]:
  """Computes Wilson's score interval of a proportion; with the default, its 95 % interval.

  Unlike the interval share +- z s.e., it is not empty at 0 and 1 and never leaves [0, 1]. Wilson, "Probable
  inference, the law of succession, and statistical inference", Journal of the American Statistical
  Association 22, 1927.

  >>> tuple(round(end, 3) for end in wilson_interval(0.9, 100))
  (0.826, 0.945)

  Args:
    share: correct images / count, from 0 to 1.
    count: number of images, at least 1.
    z: standard deviations to either side.

  Raises:
    ValueError: the share is not in [0, 1], or there are no images.
  """
  if not 0 <= share <= 1 or count < 1:
    raise ValueError(f"expected a share in [0, 1] of at least one image, got {share} of {count}")
  scale = 1 + z * z / count
  centre = (share + z * z / (2 * count)) / scale
  half = z / scale * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
  # Rounding must not put the share itself outside.
  return min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)
