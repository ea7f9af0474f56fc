"""The contract of a transform of images."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxtl.data.lazy_tensorflow import tf
from jaxtl.data.stream import Transform, takes_seed
from jaxtl.testing.claims import Claim, describe, name_of

LABEL = 3
SEEDS = 20
# Operations on float32 pixels from 0 to 255 may round differently in a graph.
ROUNDING = 1e-3


@dataclasses.dataclass(frozen=True)
class _TransformCase:
  """A transform under test.

  Attributes:
    transform: as in `check_transform`.
    image: uint8 [H, W, 3].
    random: whether it takes a seed.
  """

  transform: Transform
  image: np.ndarray
  random: bool

  def claim(self, name: str, unless: str = "") -> Claim:
    return Claim(name_of(self.transform), name, unless)

  def call(self, image: Any, number: int = 0) -> dict[str, Any]:
    """The example that the transform makes of an image, with the seed of that number if it takes one."""
    example = {"image": tf.constant(image), "label": tf.constant(LABEL)}
    return self.transform(example, _seed(number)) if self.random else self.transform(example)

  def pixels(self, image: Any, number: int = 0) -> np.ndarray:
    return np.asarray(self.call(image, number)["image"])


def check_transform(
  transform: Transform,
  *,
  image_shape: tuple[int, int] = (20, 24),
  pixel_range: tuple[float, float] | None = (0.0, 255.0),
  draws: bool = True,
  encoded: bool = True,
) -> None:
  """Checks that a transform keeps the contract of `jaxtl.data`: `(example)` or `(example, seed)` -> example.

  Whatever the keywords, the label and other keys stay; the image becomes uint8 or float32 [H, W, 3] with
  finite pixels; a uint8 image and the same numbers as float32 give the same; and the transform runs in a
  TensorFlow graph in which the size of the image is not known, with the result that it has outside.

  Args:
    transform: for one example with `image` and `label`, its settings bound. One whose second argument is
      called `seed` (int [2]) draws from that seed alone: the same seed gives the same bits.
    image_shape: (height, width) of the images that it is given, if it cannot take any size.
    pixel_range: of the result; the default is that of all transforms before `normalize`. None for one that
      normalises.
    draws: a transform with a seed makes different images of different seeds. False for settings that switch
      it off.
    encoded: an image that is still a file gives what its pixels give. False for a transform that comes after
      another one that decodes.

  Raises:
    AssertionError: the transform breaks the contract; one line says which property, and with which numbers.
  """
  image = np.random.default_rng(0).integers(0, 256, (*image_shape, 3), dtype=np.uint8)
  case = _TransformCase(transform, image, takes_seed(transform))
  _example(case)
  _pixels(case, pixel_range)
  _repeats(case)
  _same_as_float32(case)
  _same_in_a_graph(case)
  if case.random and draws:
    _draws(case)
  if encoded:
    _same_when_encoded(case)


def _seed(number: int) -> Any:
  return tf.constant([5, number], tf.int64)


def _example(case: _TransformCase) -> None:
  """Other keys than the image stay, and the given example does too."""
  example = {"image": tf.constant(case.image), "label": tf.constant(LABEL), "name": tf.constant("a.png")}
  before = dict(example)
  found = case.transform(example, _seed(0)) if case.random else case.transform(example)
  claim = case.claim("keys of the example")
  claim.equal(sorted(found), sorted(before), "the list of keys")
  claim.equal(int(found["label"]), LABEL, "the label")
  claim.equal(found["name"].numpy(), b"a.png", "the value of another key")
  case.claim("the given example").holds(
    example.keys() == before.keys() and all(example[key] is before[key] for key in before),
    "it is changed in place; return a new mapping",
  )


def _pixels(case: _TransformCase, pixel_range: tuple[float, float] | None) -> None:
  for number in range(3 if case.random else 1):
    image = case.pixels(case.image, number)
    case.claim("form of the image").holds(
      image.dtype in (np.uint8, np.float32) and image.ndim == 3 and image.shape[2] == 3,
      f"the image is {describe(image)}; expected uint8 or float32 [H, W, 3]",
    )
    case.claim("finite pixels").finite(image, f"seed {number}: the image")
    if pixel_range is not None:
      low, high = pixel_range
      case.claim("range of the pixels", "pixel_range=None").holds(
        image.min() >= low - ROUNDING and image.max() <= high + ROUNDING,
        f"seed {number}: the pixels are from {image.min():g} to {image.max():g}; "
        f"expected {low:g} to {high:g}",
      )


def _repeats(case: _TransformCase) -> None:
  claim = case.claim("noise from its seed alone")
  claim.close(
    case.pixels(case.image), case.pixels(case.image), "the image of a second call with the same seed"
  )


def _same_as_float32(case: _TransformCase) -> None:
  found, expected = case.pixels(case.image.astype(np.float32)), case.pixels(case.image)
  claim = case.claim("uint8 and float32 pixels")
  claim.close(found, expected, "the image of float32 pixels", atol=ROUNDING)


def _same_in_a_graph(case: _TransformCase) -> None:
  claim = case.claim("the same in a graph")
  try:
    traced = _traced(case)
  except Exception as error:
    claim.fail(f"tracing it for an image of unknown size raises {type(error).__name__}: {error}")
  shape = traced.output_shapes
  claim.holds(
    shape.rank == 3 and shape[2] in (3, None),
    f"of an image of unknown size the graph makes the shape {shape}; expected [H, W, 3]: tf.ensure_shape",
  )
  found = np.asarray(traced(tf.constant(case.image), _seed(0)))
  claim.close(found, case.pixels(case.image), "the image in a graph", atol=ROUNDING)


def _traced(case: _TransformCase) -> Any:
  def run(image: Any, seed: Any) -> Any:
    example = {"image": image, "label": tf.constant(LABEL)}
    return (case.transform(example, seed) if case.random else case.transform(example))["image"]

  specs = tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([2], tf.int64)
  return tf.function(run, autograph=False).get_concrete_function(*specs)


def _draws(case: _TransformCase) -> None:
  traced = _traced(case)
  made = {np.asarray(traced(tf.constant(case.image), _seed(number))).tobytes() for number in range(SEEDS)}
  case.claim("draws", "draws=False").holds(
    len(made) > 1, f"{SEEDS} seeds make {len(made)} image; expected several"
  )


def _same_when_encoded(case: _TransformCase) -> None:
  claim = case.claim("encoded images", "encoded=False")
  try:
    found = case.pixels(tf.io.encode_png(case.image).numpy())
  except Exception as error:
    claim.fail(f"a PNG file raises {type(error).__name__}: {error}")
  claim.close(found, case.pixels(case.image), "the image of a PNG file", atol=ROUNDING)
