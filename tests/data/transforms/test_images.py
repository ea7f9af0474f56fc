"""Decoding, resizing and cropping against Pillow, numpy and torchvision's published rule."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image

import jaxtl.data as data
from jaxtl.data.lazy_tensorflow import tf
from jaxtl.data.transforms import images
from jaxtl.errors import ConfigError
from tests.data.made_images import encoded, smooth_image

SEED = tf.constant([3, 4], tf.int64)


def example(image: np.ndarray | bytes) -> dict[str, tf.Tensor]:
  return {"image": tf.constant(image), "label": tf.constant(0)}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_every_format_decodes_as_pillow_does(kind):
  file = encoded(Image.fromarray(smooth_image(12, 17)), kind)
  expected = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
  np.testing.assert_array_equal(images.decoded(file), expected)


def test_grayscale_cmyk_sixteen_bit_and_single_pixel_become_rgb():
  image = smooth_image(30, 40)
  gray = images.decoded(encoded(Image.fromarray(image).convert("L")))
  assert gray.shape == (30, 40, 3)
  np.testing.assert_array_equal(gray[..., 0], gray[..., 2])
  cmyk = images.decoded(encoded(Image.fromarray(image).convert("CMYK")))
  assert abs(cmyk.astype(int) - image).mean() < 3
  deep = Image.fromarray(image[..., 0].astype(np.uint16) * 257)
  for kind in ("PNG", "TIFF"):
    np.testing.assert_array_equal(images.decoded(encoded(deep, kind))[..., 1], image[..., 0])
  assert images.decoded(encoded(image[:1, :1], "PNG")).shape == (1, 1, 3)


@pytest.mark.parametrize(
  ("file", "reason"),
  [
    (b"", "empty"),
    (b"hello", "not an image"),
    (encoded(smooth_image(64, 64))[:700], "truncated or damaged JPEG"),
    (encoded(smooth_image(64, 64), "PNG")[:700], "truncated or damaged PNG"),
    (encoded(smooth_image(64, 64), "GIF")[:300], "truncated or damaged GIF"),
  ],
)
def test_damage_is_named(file, reason):
  assert reason in images.damage(file)


def test_sound_files_have_no_damage():
  assert images.damage(encoded(smooth_image(9, 9), "WEBP")) is None


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(20, 30), (200, 190)])
def test_resize_is_pillows_antialiased_resize(interpolation, size):
  # Noise, which shows missing antialiasing at once; not too strong, as Pillow clips between its two passes.
  # It also rounds to 8 bits after each.
  image = np.random.default_rng(0).integers(64, 192, (150, 130, 3), dtype=np.uint8)
  ours = data.resize(example(image), size=size, interpolation=interpolation)["image"].numpy()
  theirs = Image.fromarray(image).resize(size[::-1], Image.Resampling[interpolation.upper()])
  np.testing.assert_allclose(ours, np.asarray(theirs, np.float32), atol=1.5)
  assert abs(ours - np.asarray(theirs, np.float32)).mean() < 0.5


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_large_resize_equals_tensorflows(interpolation):
  image = np.random.default_rng(0).integers(0, 256, (150, 230, 3), dtype=np.uint8)
  ours = images.resampled(tf.constant(image), size=(160, 140), interpolation=interpolation)
  theirs = tf.image.resize(image, (160, 140), method=interpolation, antialias=True)
  np.testing.assert_allclose(ours, tf.clip_by_value(theirs, 0, 255), atol=1e-3)


@pytest.mark.parametrize(
  ("height", "width", "expected"), [(30, 61, (20, 40)), (61, 30, (40, 20)), (30, 30, (20, 20))]
)
def test_resize_by_one_length_sets_the_shorter_side(height, width, expected):
  result = data.resize(example(smooth_image(height, width)), size=20)["image"]
  assert tuple(result.shape[:2]) == expected


@pytest.mark.parametrize("size", [32, 160])
def test_normalize_and_resize_keep_what_is_known_of_the_shape(size):
  def shape(image):
    return data.normalize(data.resize({"image": image}, size=(size, size + 1)))["image"]

  traced = tf.function(shape).get_concrete_function(tf.TensorSpec([None, None, 3], tf.uint8))
  assert tuple(traced.output_shapes) == (size, size + 1, 3)


def test_unknown_interpolation_is_refused():
  with pytest.raises(ConfigError, match="bicubic"):
    data.resize(example(smooth_image(9, 9)), size=4, interpolation="nearest")


def test_center_crop_takes_the_middle_and_pads_small_images():
  image = smooth_image(10, 14)
  crop = data.center_crop(example(image), size=(4, 6))["image"].numpy()
  np.testing.assert_array_equal(crop, image[3:7, 4:10])
  padded = data.center_crop(example(image), size=16)["image"].numpy()
  np.testing.assert_array_equal(padded[3:13, 1:15], image)
  assert padded[:3].sum() == 0


def test_pad_crop_is_a_window_of_the_padded_image():
  image = smooth_image(8, 8)
  for mode in ("reflect", "constant"):
    padded = np.pad(image, ((3, 3), (3, 3), (0, 0)), mode)
    windows = {padded[y : y + 8, x : x + 8].tobytes() for y in range(7) for x in range(7)}
    seen = set()
    for number in range(40):
      seed = tf.constant([0, number], tf.int64)
      seen.add(data.pad_crop(example(image), seed, size=8, padding=3, mode=mode)["image"].numpy().tobytes())
    assert seen <= windows
    assert len(seen) > 20
  with pytest.raises(ConfigError, match="reflect"):
    data.pad_crop(example(image), SEED, size=8, mode="wrap")


def test_crop_boxes_follow_torchvisions_rule():
  """`RandomResizedCrop.get_params` written again in numpy; the two are compared by their moments."""
  height, width, scale, ratio = 60, 100, (0.2, 1.0), (0.5, 2.0)
  rng = np.random.default_rng(0)

  def reference():
    for _ in range(10):
      area = height * width * rng.uniform(*scale)
      aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
      w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
      if 0 < w <= width and 0 < h <= height:
        return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
    return 0, 0, height, width

  theirs = np.array([reference() for _ in range(4000)], np.float64)
  box = tf.function(lambda n: images.crop_box([height, width], tf.stack([1, n]), scale=scale, ratio=ratio))
  ours = np.array([box(tf.constant(number)) for number in range(4000)], np.float64)
  assert (ours[:, :2] >= 0).all()
  assert (ours[:, 0] + ours[:, 2] <= height).all()
  assert (ours[:, 1] + ours[:, 3] <= width).all()
  # Five standard errors of the difference of two means over 4000 draws.
  error = 5 * np.sqrt((ours.var(0) + theirs.var(0)) / 4000)
  assert (abs(ours.mean(0) - theirs.mean(0)) < error).all()
  np.testing.assert_allclose(ours.std(0), theirs.std(0), rtol=0.06)


@pytest.mark.parametrize(
  ("shape", "expected"),
  [((10, 100), (0, 43, 10, 13)), ((100, 10), (43, 0, 13, 10)), ((30, 30), (0, 0, 30, 30))],
)
def test_crop_falls_back_to_the_centre(shape, expected):
  box = images.crop_box(list(shape), SEED, scale=(4.0, 5.0), ratio=(3 / 4, 4 / 3))
  assert tuple(box.numpy()) == expected


def test_fused_decoding_crops_what_decoding_first_crops():
  file = encoded(smooth_image(90, 120))
  fused = data.random_resized_crop(example(file), SEED, size=32)["image"].numpy()
  apart = data.random_resized_crop(example(images.decoded(file)), SEED, size=32)["image"].numpy()
  # A JPEG decoder may smooth colour across the border of the crop differently.
  np.testing.assert_allclose(fused, apart, atol=8)
  assert abs(fused - apart).mean() < 0.5


def test_random_resized_crop_options_change_the_crop():
  image = example(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8))
  crop = lambda **options: data.random_resized_crop(image, SEED, size=24, **options)["image"].numpy()  # noqa: E731
  assert not np.array_equal(crop(), crop(scale=(0.08, 0.1)))
  assert not np.array_equal(crop(), crop(ratio=(0.5, 0.6)))
  assert not np.array_equal(crop(), crop(interpolation="bicubic"))
  whole = crop(scale=(1.0, 1.0), ratio=(1.0, 1.0))
  np.testing.assert_allclose(whole, data.resize(image, size=24)["image"], atol=1e-3)


def test_normalize_is_the_published_formula():
  image = smooth_image(5, 6)
  for mean, std in ((data.IMAGENET_MEAN, data.IMAGENET_STD), (data.CIFAR10_MEAN, data.CIFAR10_STD)):
    expected = (image / 255 - np.array(mean)) / np.array(std)
    for pixels in (image, image.astype(np.float32)):
      np.testing.assert_allclose(
        data.normalize(example(pixels), mean=mean, std=std)["image"], expected, atol=1e-5
      )
  np.testing.assert_array_equal(
    data.normalize(example(image))["image"],
    data.normalize(example(image), mean=data.IMAGENET_MEAN, std=data.IMAGENET_STD)["image"],
  )


def test_to_rgb_decodes_and_leaves_pixels_alone():
  image = smooth_image(7, 9)
  np.testing.assert_array_equal(data.to_rgb(example(encoded(image, "PNG")))["image"], image)
  np.testing.assert_array_equal(data.to_rgb(example(image))["image"], image)


def test_tensorflow_sees_no_accelerator():
  assert tf.config.get_visible_devices("GPU") == []
  assert tf.config.get_visible_devices("TPU") == []
