"""EXIF orientation by its definition: which sides of the picture the first stored row and column are."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
import pytest
from PIL import Image

import jaxtl.data as data
from jaxtl.data.check import check
from jaxtl.data.lazy_tensorflow import tf
from jaxtl.data.transforms import images, orientation
from tests.data.made_files import EXIF, chunk, exif, png, tiff, with_segments
from tests.data.made_images import encoded, smooth_image

SEED = tf.constant([3, 4], tf.int64)
UPRIGHT = smooth_image(30, 44)
# Orientation -> (side of the first row, side of the first column), CIPA DC-008, section 4.6.4.
SIDES = {
  1: ("top", "left"),
  2: ("top", "right"),
  3: ("bottom", "right"),
  4: ("bottom", "left"),
  5: ("left", "top"),
  6: ("right", "top"),
  7: ("right", "bottom"),
  8: ("left", "bottom"),
}
EVERY = pytest.mark.parametrize("number", SIDES)


def stored(upright, number):
  """The pixels of a file with an orientation, given what is to be seen."""

  def steps(side):
    length = upright.shape[0] if side in ("top", "bottom") else upright.shape[1]
    return range(length) if side in ("top", "left") else range(length - 1, -1, -1)

  row, column = SIDES[number]
  if row in ("top", "bottom"):
    return np.array([[upright[y, x] for x in steps(column)] for y in steps(row)])
  return np.array([[upright[y, x] for y in steps(column)] for x in steps(row)])


def tagged(pixels, number, kind="JPEG", **options):
  """A file of these stored pixels with an orientation, written by Pillow."""
  tags = Image.Exif()
  tags[0x0112] = number
  return encoded(pixels, kind, exif=tags.tobytes(), **options)


@EVERY
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_lossless_files_are_seen_upright(number, kind):
  file = tagged(stored(UPRIGHT, number), number, kind, **(dict(lossless=True) if kind == "WEBP" else {}))
  np.testing.assert_array_equal(images.decoded(file), UPRIGHT)


@EVERY
def test_jpegs_are_seen_upright(number):
  file = tagged(stored(UPRIGHT, number), number)
  as_stored = np.asarray(Image.open(io.BytesIO(file)))
  np.testing.assert_array_equal(stored(images.decoded(file), number), as_stored)
  assert abs(images.decoded(file).astype(int) - UPRIGHT).mean() < 2


@EVERY
def test_the_option_leaves_pixels_as_torchvision_reads_them(number):
  """torchvision converts what Pillow opens, and Pillow turns TIFF files alone."""
  for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
    file = tagged(stored(UPRIGHT, number), number, kind)
    found = images.decode(file, upright=False).numpy()
    np.testing.assert_array_equal(found, np.asarray(Image.open(io.BytesIO(file)).convert("RGB")), kind)
    chosen = data.to_rgb({"image": tf.constant(file)}, upright=False)["image"]
    np.testing.assert_array_equal(chosen, found)
    if number > 1 and kind != "TIFF":
      assert not np.array_equal(found, images.decoded(file))


@EVERY
def test_a_box_in_the_turned_picture_is_found_in_the_stored_one(number):
  pixels = stored(UPRIGHT, number)
  for box in ((0, 0, 30, 44), (3, 5, 7, 11), (29, 43, 1, 1), (0, 40, 30, 4)):
    place = orientation.stored_box(tf.constant(box), tf.constant(UPRIGHT.shape[:2]), tf.constant(number))
    y, x, height, width = place.numpy()
    part = orientation.turned(tf.constant(pixels[y : y + height, x : x + width]), tf.constant(number))
    y, x, height, width = box
    np.testing.assert_array_equal(part, UPRIGHT[y : y + height, x : x + width])


@EVERY
@pytest.mark.parametrize("upright", [True, False])
def test_the_fused_crop_is_a_crop_of_the_whole(number, upright):
  file = tagged(stored(smooth_image(90, 120), number), number)
  crop = partial(data.random_resized_crop, size=32)
  whole = images.decode(file, upright=upright)
  for seed in range(3):
    seed = tf.constant([3, seed], tf.int64)
    fused = crop({"image": tf.constant(file)}, seed, upright=upright)["image"].numpy()
    apart = crop({"image": whole}, seed)["image"].numpy()
    # A JPEG decoder may smooth colour across the border of the crop differently.
    np.testing.assert_allclose(fused, apart, atol=8)
    assert abs(fused - apart).mean() < 0.5


def test_the_crop_of_another_format_takes_the_option():
  file = tagged(stored(smooth_image(60, 90), 6), 6, "PNG")
  for upright in (True, False):
    whole = {"image": images.decode(file, upright=upright)}
    np.testing.assert_array_equal(
      data.random_resized_crop({"image": tf.constant(file)}, SEED, size=16, upright=upright)["image"],
      data.random_resized_crop(whole, SEED, size=16)["image"],
    )


def jpeg_with(*segments, **options):
  return with_segments(encoded(smooth_image(20, 30)), *segments, **options)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("before", [0, 1, 11])
def test_orientations_are_found_wherever_they_stand(order, before):
  tags = exif(6, order=order, before=before)
  icc, comment = (0xE2, b"ICC_PROFILE\0" + b"\xff\xe1" * 30000), (0xFE, b"Exif\0\0")
  files = [
    jpeg_with((0xE1, EXIF + tags)),
    jpeg_with((0xE1, EXIF + tags), behind_jfif=True),
    jpeg_with((0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"), icc, comment, (0xE1, EXIF + tags)),
    jpeg_with(icc, comment, (0xE1, EXIF + tags), behind_jfif=True),
    png(smooth_image(20, 30), color=2, chunks=chunk(b"eXIf", tags)),
    png(smooth_image(20, 30), color=2, late=chunk(b"eXIf", tags)),
    png(smooth_image(20, 30).astype(np.uint16) * 257, color=2, chunks=chunk(b"eXIf", tags)),
  ]
  for file in files:
    assert images.decoded(file).shape == (30, 20, 3)
    # Pillow finds the same.
    with Image.open(io.BytesIO(file)) as image:
      image.load()
      assert image.getexif()[0x0112] == 6


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
  "tags",
  [
    exif(0),
    exif(9),
    exif(300),
    exif(6)[:9],
    exif(6)[:18],
    b"",
    b"II*\0",
    b"XX*\0" + exif(6)[4:],
    b"II*\0\xff\xff\xff\xff",
    b"II*\0\x08\0\0\0\xff\xff" + b"\x01" * 40,
  ],
)
def test_corrupted_exif_data_leave_the_picture_as_it_is(tags):
  image = smooth_image(20, 30)
  for file in (
    jpeg_with((0xE1, EXIF + tags)),
    png(image, color=2, chunks=chunk(b"eXIf", tags)),
    encoded(image, "WEBP", exif=EXIF + tags),
  ):
    assert images.decoded(file).shape == (20, 30, 3)


def test_what_is_cut_off_in_its_segments_is_still_named():
  file = jpeg_with((0xE1, EXIF + exif(6)))
  for length in (3, 4, 5, 11, 20, 30, 45, 60):
    assert images.damage(file[:length]) == f"truncated or damaged JPEG of {length} bytes"
    assert orientation.read(file[:length]) in (1, 6)
  file = png(smooth_image(20, 30), color=2, chunks=chunk(b"eXIf", exif(6)))
  for length in (8, 9, 30, 40, 70):
    assert images.damage(file[:length]) == f"truncated or damaged PNG of {length} bytes"


def test_a_jpeg_without_exif_data_does_not_enter_python(monkeypatch):
  def refuse(encoded):
    raise AssertionError("read in Python")

  monkeypatch.setattr(orientation, "read", refuse)
  plain = encoded(smooth_image(20, 30))
  assert images.decoded(plain).shape == (20, 30, 3)
  with pytest.raises(tf.errors.OpError, match="read in Python"):
    images.decoded(tagged(smooth_image(20, 30), 1))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_jpegs_turn(mode):
  file = tagged(Image.fromarray(stored(UPRIGHT, 8)).convert(mode), 8)
  assert images.decoded(file).shape == (30, 44, 3)
  assert images.decode(file, upright=False).shape == (44, 30, 3)


def test_deep_tiff_files_turn():
  values = np.arange(6, dtype="<u2").reshape(2, 3) * 257
  found = images.decoded(tiff(values, bits=16, t274=6))
  # Clockwise by a quarter: the first column becomes the first row, from its last pixel.
  np.testing.assert_array_equal(found[..., 0], [[3, 0], [4, 1], [5, 2]])


def test_a_source_the_pipeline_and_the_check_agree(tmp_path):
  for name, number in (("a", 6), ("b", 1)):
    (tmp_path / name).mkdir()
    (tmp_path / name / "x.jpg").write_bytes(tagged(stored(UPRIGHT, number), number))
  source = data.from_folder(folder=str(tmp_path))
  (batch,) = data.eval_batches(source, [], batch_size=2)
  for index in range(2):
    np.testing.assert_array_equal(batch["image"][index], source.read(index))
  # Both heights are 30: the report counts pixels as they are seen.
  assert check(source).sizes == ((30, 30, 30), (44, 44, 44))
  stored_ = [partial(data.to_rgb, upright=False), partial(data.resize, size=(30, 44))]
  (other,) = data.eval_batches(source, stored_, batch_size=2)
  assert abs(other["image"][0] - batch["image"][0]).mean() > 10
  np.testing.assert_allclose(other["image"][1], batch["image"][1], atol=1e-3)
