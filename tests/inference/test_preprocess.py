"""The transforms without TensorFlow against those of the pipeline, and what falls back to it."""

import inspect

import numpy as np
import pytest

from jaxtl import config as config_lib
from jaxtl import data
from jaxtl.data.transforms import images
from jaxtl.errors import ConfigError, DataError
from jaxtl.inference import Preprocess, preprocess
from jaxtl.inference.resampling import resampled
from tests.data.made_images import encoded, smooth_image

# Sums of at most 2 * 700 float32 products of weights (sum 1, or 1.3 in size for the cubic kernel) and pixels
# up to 255: with another order or fused operations they differ by less than 1,400 * 2^-24 * 1.3 * 255.
LEVELS = 0.03


def made(transforms, size):
  specs = tuple(config_lib.spec(value) for value in transforms)
  return Preprocess(specs, (size, size))


def by_pipeline(file, transforms):
  """The image of a batch of an evaluation."""
  source = data.Source(name="a", classes=("a",), labels=np.zeros(1), images=data.Encoded([file]))
  realized = [config_lib.spec(value).realize() for value in transforms]
  return next(iter(data.eval_batches(source, realized, batch_size=1)))["image"][0]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_gives_the_numbers_of_the_pipeline(interpolation):
  rng = np.random.default_rng(0)
  for _ in range(30):
    before, after = rng.integers(1, 700, 2), rng.integers(1, 300, 2)
    image = rng.integers(0, 256, (*before, 3)).astype(np.uint8)
    expected = images.resampled(image, size=tuple(map(int, after)), interpolation=interpolation).numpy()
    found = resampled(image, *map(int, after), interpolation=interpolation)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=LEVELS, err_msg=f"{before} {after}")


def test_a_constant_image_stays_constant_and_the_same_size_changes_nothing():
  image = np.full((50, 31, 3), 200, np.uint8)
  np.testing.assert_allclose(resampled(image, 13, 77), 200, rtol=1e-6)
  noise = np.random.default_rng(0).integers(0, 256, (50, 31, 3)).astype(np.uint8)
  np.testing.assert_array_equal(resampled(noise, 50, 31), noise)


def test_halving_an_image_weighs_four_pixels_as_the_triangle_does():
  """At scale 1/2 the triangle is two output pixels wide: weights 1, 3, 3, 1 over 8."""
  row = np.repeat(np.arange(8, dtype=np.float32)[None, :, None] ** 2, 3, axis=-1)
  squares = np.arange(8.0) ** 2
  expected = [(squares[i - 1 : i + 3] * [1, 3, 3, 1]).sum() / 8 for i in (2, 4)]
  np.testing.assert_allclose(resampled(row, 1, 4)[0, 1:3, 0], expected, rtol=1e-6)


def test_an_image_wider_than_a_block_is_resized_alike(monkeypatch):
  image = smooth_image(40, 90)
  expected = resampled(image, 20, 30)
  monkeypatch.setattr("jaxtl.inference.resampling._BLOCK", 7)
  np.testing.assert_array_equal(resampled(image, 20, 30), expected)


def test_an_unknown_interpolation_is_refused():
  with pytest.raises(ConfigError, match="write one of"):
    resampled(smooth_image(4, 4), 2, 2, interpolation="lanczos")


@pytest.mark.parametrize(
  "transforms",
  [
    data.Preprocessing(size=32).specs(),
    data.Preprocessing(size=32, crop_fraction=None).specs(),
    data.Preprocessing(size=32, crop_fraction=0.9, interpolation="bicubic").specs(),
    data.Preprocessing(size=32, upright=False, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)).specs(),
    [dict(fn=".data.center_crop", size=32)],
    [dict(fn=".data.resize", size=[32, 32]), dict(fn=".data.normalize")],
    [dict(fn=".data.center_crop", size=90), dict(fn=".data.resize", size=32)],
  ],
  ids=str,
)
@pytest.mark.parametrize("shape", [(40, 61), (61, 40), (20, 33), (101, 32)])
def test_a_file_becomes_what_an_evaluation_sees(transforms, shape):
  prepare = made(transforms, 32)
  assert not prepare.needs_tensorflow
  file = encoded(smooth_image(*shape), "JPEG")
  found, expected = prepare(file), by_pipeline(file, transforms)
  assert found.dtype == expected.dtype == np.float32
  # In units of the network: a level is 1 / (255 * 0.22) at most.
  np.testing.assert_allclose(found, expected, rtol=0, atol=LEVELS if expected.max() > 10 else LEVELS / 56)


def test_counterparts_take_the_same_keywords_with_the_same_defaults():
  for transform, counterpart in preprocess._COUNTERPARTS.items():
    ours, theirs = (
      {p.name: p.default for p in inspect.signature(f).parameters.values() if p.kind is p.KEYWORD_ONLY}
      for f in (counterpart, transform)
    )
    assert ours == theirs, transform


def test_orientation_is_the_checkpoint_s():
  from PIL import Image

  tags = Image.Exif()
  tags[0x0112] = 3
  file = encoded(smooth_image(32, 32), "PNG", exif=tags.tobytes())
  plain = made([dict(fn=".data.normalize")], 32)
  stored = made([dict(fn=".data.to_rgb", upright=False), dict(fn=".data.normalize")], 32)
  assert plain.upright
  assert not stored.upright
  np.testing.assert_array_equal(plain(file), stored(file)[::-1, ::-1])
  np.testing.assert_array_equal(plain.turned(smooth_image(3, 4), 3), smooth_image(3, 4)[::-1, ::-1])
  np.testing.assert_array_equal(stored.turned(smooth_image(3, 4), 3), smooth_image(3, 4))


@pytest.mark.parametrize("position", [0, 5])
def test_a_transform_without_a_counterpart_uses_the_pipeline_s(position):
  transforms = [dict(fn=".data.random_resized_crop", size=16), dict(fn=".data.normalize")]
  prepare = made(transforms, 16)
  assert prepare.needs_tensorflow
  files = [encoded(smooth_image(40, 50, seed=seed), "JPEG") for seed in range(6)]
  source = data.Source(name="a", classes=("a",), labels=np.zeros(6), images=data.Encoded(files))
  realized = [config_lib.spec(value).realize() for value in transforms]
  expected = next(iter(data.eval_batches(source, realized, batch_size=6)))["image"][position]
  np.testing.assert_allclose(prepare(files[position], position=position), expected, atol=1e-5)
  pixels = images.decoded(files[position])
  other = prepare(pixels, position=position)
  assert other.shape == (16, 16, 3)


def test_a_transform_that_fails_is_named_and_a_damaged_file_has_its_reason():
  prepare = made([dict(fn=".data.pad_crop", size=64, padding=0)], 64)
  with pytest.raises(DataError, match=r"a transform fails on it \(\.data\.pad_crop\)"):
    prepare(smooth_image(20, 20))
  with pytest.raises(DataError, match="it is empty"):
    prepare(b"")


def test_another_size_is_refused_with_the_option():
  prepare = made([dict(fn=".data.normalize")], 32)
  with pytest.raises(DataError, match=r"it has 20 x 30 pixels, .* its 32 x 32; write --image-size 32"):
    prepare(smooth_image(20, 30))
