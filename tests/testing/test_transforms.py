"""A transform that breaks its contract is named: the property and the numbers."""

import re
from functools import partial

import numpy as np
import pytest

from jaxtl import data
from jaxtl.data.lazy_tensorflow import tf
from jaxtl.testing import check_transform


def of_pixels(change):
  """A transform without a seed that changes float32 pixels."""

  def transform(example):
    return {**example, "image": change(tf.cast(data.to_rgb(example)["image"], tf.float32))}

  return transform


def in_place(example):
  example["image"] = tf.reverse(data.to_rgb(example)["image"], [0])
  return example


def without_the_name(example):
  return {"image": data.to_rgb(example)["image"], "label": example["label"]}


def another_label(example):
  return {**data.to_rgb(example), "label": example["label"] + 1}


def from_python(image):
  return tf.py_function(lambda x: x, [image], tf.float32)


def depends_on_the_dtype(example):
  image = data.to_rgb(example)["image"]
  return {**example, "image": tf.cast(image // 2 if image.dtype == tf.uint8 else image / 2, tf.float32)}


def eager_only(image):
  return image if tf.executing_eagerly() else 255 - image


def ignores_its_seed(example, seed):
  return data.to_rgb(example)


def of_decoded_images(example):
  return {**example, "image": tf.cast(example["image"], tf.float32)}


def violation(transform, **options):
  with pytest.raises(AssertionError) as error:
    check_transform(transform, **options)
  assert "\n" not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize(
  ("transform", "said"),
  [
    (without_the_name, r"without_the_name: keys of the example: the list of keys is .*; expected .*'name'"),
    (another_label, "keys of the example: the label is 4; expected 3"),
    (in_place, "in_place: the given example: it is changed in place; return a new mapping"),
    (
      of_pixels(lambda x: x[..., :1]),
      r"form of the image: the image is float32 \[20, 24, 1\]; expected uint8 or",
    ),
    (
      of_pixels(lambda x: tf.cast(x, tf.float64)),
      r"form of the image: the image is float64 \[20, 24, 3\]; exp",
    ),
    (of_pixels(lambda x: x / (x - x)), r"finite pixels: seed 0: the image is inf at \[0, 0, 0\]"),
    (
      data.normalize,
      "normalize: range of the pixels: seed 0: the pixels are from -2.1.* to 2.*; expected 0 to 255",
    ),
    (of_pixels(lambda x: x * tf.random.uniform([])), "noise from its seed alone: the image of a second call"),
    (depends_on_the_dtype, "uint8 and float32 pixels: the image of float32 pixels is .*; expected"),
    (
      of_pixels(lambda x: tf.constant(x.numpy())),
      "the same in a graph: tracing it for an image of unknown size",
    ),
    (of_pixels(from_python), "the same in a graph: of an image of unknown size the graph makes the shape"),
    (of_pixels(eager_only), "the same in a graph: the image in a graph is .*; expected"),
    (
      ignores_its_seed,
      "ignores_its_seed: draws: 20 seeds make 1 image; expected several; draws=False switches",
    ),
    (of_decoded_images, "encoded images: a PNG file raises .*; encoded=False switches this off"),
  ],
)
def test_a_broken_property_is_named(transform, said):
  assert re.search(said, violation(transform))


@pytest.mark.parametrize(
  ("transform", "switch"),
  [
    (data.normalize, dict(pixel_range=None)),
    (ignores_its_seed, dict(draws=False)),
    (of_decoded_images, dict(encoded=False)),
  ],
)
def test_a_property_that_is_not_claimed_is_not_checked(transform, switch):
  check_transform(transform, **switch)


def test_the_range_and_the_size_are_those_that_are_given():
  check_transform(data.normalize, pixel_range=(-3.0, 3.0))
  assert "expected 0 to 1" in violation(data.normalize, pixel_range=(0.0, 1.0))

  def only_squares(image):
    np.testing.assert_equal(image.shape[0] or 9, image.shape[1] or 9)
    return image

  check_transform(of_pixels(only_squares), image_shape=(9, 9))
  check_transform(partial(data.resize, size=8), image_shape=(30, 7))
