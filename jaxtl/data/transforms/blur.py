"""Blur with a fixed or drawn probability."""

from __future__ import annotations

import numpy as np

from jaxtl.data.lazy_tensorflow import tf
from jaxtl.data.transforms.declared import declares
from jaxtl.data.transforms.draws import happens
from jaxtl.data.transforms.images import Example, to_rgb
from jaxtl.data.transforms.ranges import check_probability
from jaxtl.errors import ConfigError

# Where OpenCV is given no sigma, it replaces the Gaussian of these sizes by kernels of dyadic fractions
# (getGaussianKernel of opencv, modules/imgproc/src/smooth.dispatch.cpp). Up to size 5 they are binomial.
_FIXED = {
  1: (1.0,),
  3: (0.25, 0.5, 0.25),
  5: (0.0625, 0.25, 0.375, 0.25, 0.0625),
  7: (0.03125, 0.109375, 0.21875, 0.28125, 0.21875, 0.109375, 0.03125),
}


def _check_gaussian_blur(*, kernel_size: int, sigma: float | None, probability: float) -> None:
  if kernel_size < 1 or kernel_size % 2 == 0:
    raise ConfigError(f"gaussian_blur kernel_size is {kernel_size}; expected an odd number (for example 5)")
  if sigma is not None and not 0 < sigma < float("inf"):
    raise ConfigError(
      f"gaussian_blur sigma is {sigma:g}; expected pixels above 0, or None for OpenCV's kernel of that size"
    )
  check_probability("gaussian_blur", probability=probability)


@declares(check=_check_gaussian_blur)
def gaussian_blur(
  example: Example,
  seed: tf.Tensor,
  *,
  kernel_size: int = 5,
  sigma: float | None = None,
  probability: float = 0.5,
) -> Example:
  """Blurs the image with a Gaussian kernel, with the given probability; borders are mirrored.

  The defaults are those of PSPNet's training code (hszhao/semseg, util/transform.py), which calls OpenCV
  without a sigma. OpenCV then uses the binomial kernel (1, 4, 6, 4, 1) / 16 and not the Gaussian of the
  sigma that it documents.

  Args:
    example: an example with an image.
    seed: int [2].
    kernel_size: side of the kernel in pixels, odd; both sides of the image must exceed half of it.
    sigma: standard deviation in pixels. None means OpenCV's kernel for no sigma: binomial up to size 5, its
      own table for 7, and else 0.3 ((kernel_size - 1) / 2 - 1) + 0.8.
    probability: probability of a blur.

  Returns:
    The example with a float32 image.

  Raises:
    ConfigError: the size is even, sigma is not above 0, or the probability is outside [0, 1].
  """
  _check_gaussian_blur(kernel_size=kernel_size, sigma=sigma, probability=probability)
  image = tf.cast(to_rgb(example)["image"], tf.float32)
  kernel = blur_kernel(kernel_size, sigma)
  blurred = tf.cond(happens(seed, probability), lambda: _convolved(image, kernel), lambda: image)
  return {**example, "image": tf.ensure_shape(blurred, image.shape)}


def blur_kernel(size: int, sigma: float | None) -> np.ndarray:
  """Returns the weights float32 [size] of `gaussian_blur` along one axis; their sum is 1."""
  if sigma is None and size in _FIXED:
    return np.asarray(_FIXED[size], np.float32)
  width = 0.3 * ((size - 1) / 2 - 1) + 0.8 if sigma is None else sigma
  weights = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / width) ** 2)
  return (weights / weights.sum()).astype(np.float32)


def _convolved(image: tf.Tensor, kernel: np.ndarray) -> tf.Tensor:
  around = len(kernel) // 2
  # REFLECT does not repeat the pixels of the border, as OpenCV's default.
  padded = tf.pad(image, [[around, around], [around, around], [0, 0]], "REFLECT")[None]
  for shape in ([-1, 1, 1, 1], [1, -1, 1, 1]):
    weights = np.tile(kernel.reshape(shape), [1, 1, 3, 1])
    padded = tf.nn.depthwise_conv2d(padded, weights, strides=[1, 1, 1, 1], padding="VALID")
  return padded[0]
