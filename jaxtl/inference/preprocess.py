"""Prepares one image for the network, with the preprocessing of a checkpoint.

The transforms of most checkpoints decode, resize, crop and normalise. Each of these has a counterpart here
that computes the same numbers without TensorFlow, whose import takes longer than everything else that one
prediction needs. Checkpoints with any other transform use TensorFlow.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxtl import data as data_lib
from jaxtl.config import Spec
from jaxtl.data.stream import takes_seed
from jaxtl.data.transforms import images as images_lib
from jaxtl.data.transforms import orientation
from jaxtl.errors import DataError
from jaxtl.inference.decoding import UnreadableError, decode
from jaxtl.inference.resampling import resampled

# An image before the transforms: an encoded file, or the pixels [H, W, 3] of an array.
Raw = bytes | np.ndarray


@dataclasses.dataclass(frozen=True)
class Preprocess:
  """The preprocessing of a checkpoint, as a function of one image.

  Attributes:
    transforms: the transforms, in order.
    image_shape: (height, width) that the model needs.
  """

  transforms: tuple[Spec, ...]
  image_shape: tuple[int, int]

  @property
  def upright(self) -> bool:
    """Whether images are turned according to their EXIF orientation."""
    first = next(iter(self.transforms), None)
    keywords = first.keywords if first is not None and first.target is data_lib.to_rgb else {}
    return bool(keywords.get("upright", True))

  @property
  def needs_tensorflow(self) -> bool:
    """Whether a transform has no counterpart without TensorFlow."""
    return any(spec.target not in _COUNTERPARTS for spec in self.transforms)

  def __call__(self, raw: Raw, *, position: int = 0) -> np.ndarray:
    """Prepares one image.

    Args:
      raw: the contents of an image file; or pixels [H, W, 3], uint8 or float32 from 0 to 255.
      position: place of the image in its list, from which random transforms draw, as in `jaxtl eval`.

    Returns:
      float32 [height, width, 3].

    Raises:
      UnreadableError: the bytes are not an image.
      DataError: a transform fails, or the result does not have the size that the model needs.
    """
    if self.needs_tensorflow:
      image = self._by_tensorflow(raw, position)
    else:
      image = self.decoded(raw)
      for spec in self.transforms:
        image = _COUNTERPARTS[spec.target](image, **spec.keywords)
    return self._checked(image.astype(np.float32, copy=False))

  def decoded(self, raw: Raw) -> np.ndarray:
    """Returns the pixels before the transforms, [H, W, 3]."""
    return decode(raw, upright=self.upright) if isinstance(raw, bytes) else raw

  def turned(self, pixels: np.ndarray, number: int) -> np.ndarray:
    """Returns pixels [H, W, 3] with the EXIF orientation `number` turned upright, if the checkpoint does."""
    return orientation.turned_array(pixels, number) if self.upright else pixels

  def _checked(self, image: np.ndarray) -> np.ndarray:
    (found_height, found_width), (height, width) = image.shape[:2], self.image_shape
    if (found_height, found_width) == (height, width):
      return image
    advice = f"; write --image-size {height} (in Python: size={height})" if height == width else ""
    raise DataError(
      f"it has {found_height} x {found_width} pixels, and the checkpoint's preprocessing does not resize to "
      f"its {height} x {width}{advice}"
    )

  def _by_tensorflow(self, raw: Raw, position: int) -> np.ndarray:
    from jaxtl.data.lazy_tensorflow import tf

    try:
      return np.asarray(self._traced(tf.constant(raw), tf.constant(position, tf.int64)))
    except tf.errors.OpError as error:
      reason = images_lib.damage(raw) if isinstance(raw, bytes) else None
      names = ", ".join(spec.path for spec in self.transforms)
      if reason is not None:
        raise UnreadableError(reason) from error
      raise DataError(f"a transform fails on it ({names}): {str(error).splitlines()[0]}") from error

  @functools.cached_property
  def _traced(self) -> Callable[[Any, Any], Any]:
    from jaxtl.data.lazy_tensorflow import tf

    realized = [spec.realize() for spec in self.transforms]

    def prepared(image: Any, position: Any) -> Any:
      seed = tf.stack([tf.constant(0, tf.int64), position])
      example: Mapping[str, Any] = {"image": image}
      for number, transform in enumerate(realized):
        own = tf.random.experimental.stateless_fold_in(seed, tf.constant(number, tf.int64))
        example = transform(example, own) if takes_seed(transform) else transform(example)
      return tf.cast(images_lib.to_rgb(example)["image"], tf.float32)

    return tf.function(prepared, autograph=False, reduce_retracing=True)


# ---- the counterparts of transforms in `jaxtl.data`, with the same keywords


def _to_rgb(image: np.ndarray, *, upright: bool = True) -> np.ndarray:
  return image  # decoded already


def _resize(image: np.ndarray, *, size: int | Sequence[int], interpolation: str = "bilinear") -> np.ndarray:
  if isinstance(size, int):
    rows, columns = image.shape[:2]
    longer = size * max(rows, columns) // min(rows, columns)
    height, width = (longer, size) if rows >= columns else (size, longer)
  else:
    height, width = size
  return resampled(image, height, width, interpolation=interpolation)


def _center_crop(image: np.ndarray, *, size: int | Sequence[int]) -> np.ndarray:
  height, width = images_lib.pair(size)
  missing = [max(height - image.shape[0], 0), max(width - image.shape[1], 0)]
  image = np.pad(image, [*((lack // 2, lack - lack // 2) for lack in missing), (0, 0)])
  # Both round half to even.
  y, x = (round((there - wanted) / 2) for there, wanted in zip(image.shape, (height, width)))
  return image[y : y + height, x : x + width]


def _normalize(
  image: np.ndarray,
  *,
  mean: Sequence[float] = data_lib.IMAGENET_MEAN,
  std: Sequence[float] = data_lib.IMAGENET_STD,
) -> np.ndarray:
  shift, scale = 255 * np.asarray(mean, np.float32), 1 / (255 * np.asarray(std, np.float32))
  return (image.astype(np.float32, copy=False) - shift) * scale


_COUNTERPARTS: dict[Callable[..., Any], Callable[..., np.ndarray]] = {
  data_lib.to_rgb: _to_rgb,
  data_lib.resize: _resize,
  data_lib.center_crop: _center_crop,
  data_lib.normalize: _normalize,
}
