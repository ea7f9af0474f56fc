"""Images of every mode against closed forms."""

from __future__ import annotations

import colorsys
import io

import numpy as np
import pytest
from PIL import Image

import jaxtl.data as data
from jaxtl.data.transforms import images, pixels
from jaxtl.errors import DataError
from tests.data.made_files import chunk, png, tiff
from tests.data.made_images import encoded, smooth_image

COLORS = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 30, 90), (17, 130, 200)]
SIXTEEN = np.array([[0, 1, 128, 129, 257, 25700], [32767, 32768, 40000, 65278, 65406, 65535]], np.uint16)


def scaled(values, top):
  """`values` on 0..255 by their definition, rounded."""
  return np.rint(np.clip(values / top, 0, 1) * 255)


def filled(mode, values):
  """An image of 2 x 3 equal pixels."""
  return Image.frombytes(mode, (3, 2), bytes(values) * 6)


def decoded_grey(file):
  image = images.decoded(file)
  np.testing.assert_array_equal(image[..., 0], image[..., 1])
  np.testing.assert_array_equal(image[..., 0], image[..., 2])
  return image[..., 0]


@pytest.mark.parametrize("color", COLORS, ids=str)
def test_modes_of_color_become_the_color(color):
  red, green, blue = color
  luma = round(0.299 * red + 0.587 * green + 0.114 * blue)
  chroma = [round(128 + 0.5 / (1 - weight) * (part - luma)) for weight, part in ((0.114, blue), (0.299, red))]
  hue, saturation, value = (round(255 * part) for part in colorsys.rgb_to_hsv(*(c / 255 for c in color)))
  palette = Image.new("P", (3, 2), 5)
  palette.putpalette([0] * 15 + list(color))
  seen = palette.copy()
  seen.info["transparency"] = 5
  half = [round(part * 128 / 255) for part in color]
  made = {
    "RGB": (filled("RGB", color), 0),
    "RGBA": (filled("RGBA", (*color, 9)), 0),
    "RGBX": (filled("RGBX", (*color, 9)), 0),
    # Half the levels are left: one of those is two of these.
    "RGBa": (filled("RGBa", (*half, 128)), 1),
    "CMYK": (filled("CMYK", (255 - red, 255 - green, 255 - blue, 0)), 0),
    # Rounding of luma and chroma, times up to 1.8.
    "YCbCr": (filled("YCbCr", (luma, *(min(c, 255) for c in chroma))), 3),
    # Steps of a 256th of the circle of hues.
    "HSV": (filled("HSV", (hue, saturation, value)), 6),
    "P": (palette, 0),
    "P with transparency": (seen, 0),
    "PA": (palette.convert("PA"), 0),
  }
  for name, (image, error) in made.items():
    found = pixels.rgb(image)
    assert found.dtype == np.uint8, name
    assert abs(found.astype(int) - color).max() <= error, (name, found[0, 0])


@pytest.mark.parametrize("cmyk", [(0, 0, 0, 0), (255, 0, 0, 0), (10, 200, 30, 40), (0, 0, 0, 255)], ids=str)
@pytest.mark.parametrize("kind", ["TIFF", "JPEG", "plain JPEG"])
def test_cmyk_files_are_ink_on_white(kind, cmyk):
  """JPEG files by Adobe hold the inverse of the ink, those without its mark the ink."""
  *inks, black = cmyk
  expected = [(255 - ink) * (255 - black) / 255 for ink in inks]
  if kind == "plain JPEG":
    # Pillow writes Adobe's inverse and its mark, which is cut out.
    file = encoded(filled("CMYK", [255 - ink for ink in cmyk]), "JPEG")
    at = file.index(b"\xff\xee\x00\x0eAdobe")
    file = file[:at] + file[at + 16 :]
  else:
    file = encoded(filled("CMYK", cmyk), kind)
  # JPEG rounds, and TensorFlow cuts off after the product.
  assert abs(images.decoded(file)[0, 0] - np.array(expected)).max() <= (0.5 if kind == "TIFF" else 2.5)


def srgb_of_lab(lightness, a, b):
  """CIE L*a*b* with the white D50 as sRGB from 0 to 255, by the published formulas."""
  y = (lightness + 16) / 116
  f = np.array([y + a / 500, y, y - b / 200])
  xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.96422, 1.0, 0.82521]
  # From XYZ, with Bradford's adaptation to D65.
  matrix = [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540]]
  linear = np.clip(np.array([*matrix, [0.0719453, -0.2289914, 1.4052427]]) @ xyz, 0, 1)
  return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(
  "lab", [(0, 0, 0), (255, 0, 0), (128, 0, 0), (138, 60, 40), (150, -50, 30), (90, 10, -60)]
)
def test_lab_becomes_srgb(lab):
  file = tiff(np.tile(np.array(lab).astype(np.uint8), (2, 3, 1)), bits=8, photometric=8)
  assert Image.open(io.BytesIO(file)).mode == "LAB"
  expected = srgb_of_lab(lab[0] * 100 / 255, lab[1], lab[2])
  assert abs(images.decoded(file)[0, 0] - expected).max() < 2


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La"])
def test_grey_modes_are_repeated(mode):
  ramp = np.array([[0, 10, 100], [128, 200, 255]], np.uint8)
  if mode == "1":
    image, expected = Image.fromarray(ramp >= 128), np.where(ramp >= 128, 255, 0)
  elif mode == "L":
    image, expected = Image.fromarray(ramp), ramp
  else:
    opacity = np.full_like(ramp, 255 if mode == "LA" else 128)
    grey = ramp if mode == "LA" else np.rint(ramp * (128 / 255)).astype(np.uint8)
    image, expected = Image.frombytes(mode, (3, 2), np.stack([grey, opacity], -1).tobytes()), ramp
  found = pixels.rgb(image)
  assert found.shape == (2, 3, 3)
  assert abs(found.astype(int) - expected[..., None]).max() <= (mode == "La")


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_are_scaled_by_their_range_in_every_format(order):
  image = Image.fromarray(SIXTEEN.astype(f"{order}u2"))
  assert image.mode == ("I;16" if order == "<" else "I;16B")
  expected = scaled(SIXTEEN, 65535)
  np.testing.assert_array_equal(pixels.rgb(image)[..., 0], expected)
  for kind in ("TIFF", "PNG", "IM"):
    np.testing.assert_array_equal(decoded_grey(encoded(image, kind)), expected, kind)
  if order == "<":
    pgm = b"P5 6 2 65535\n" + SIXTEEN.astype(">u2").tobytes()
    for file in (encoded(image, "JPEG2000", irreversible=False), pgm):
      np.testing.assert_array_equal(decoded_grey(file), expected)


def test_the_grey_of_a_16_bit_pgm_is_128():
  file = b"P5 2 2 65535\n" + np.full((2, 2), 32768, ">u2").tobytes()
  np.testing.assert_array_equal(images.decoded(file), np.full((2, 2, 3), 128))


@pytest.mark.parametrize("top", [1023, 4095, 40000])
def test_a_pgm_is_scaled_by_the_largest_value_that_it_states(top):
  values = np.linspace(0, top, 6).astype(">u2").reshape(2, 3)
  file = f"P5 3 2 {top}\n".encode() + values.tobytes()
  # Pillow scales to 16 bits first.
  np.testing.assert_allclose(decoded_grey(file), values * (255.0 / top), atol=0.51)


@pytest.mark.parametrize(("color", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bit_pngs_are_scaled_alike_by_tensorflow_and_by_pillow(color, channels):
  values = np.random.default_rng(0).integers(0, 65536, (5, 6, channels)).astype(np.uint16)
  file = png(values, color=color)
  used = values[..., :3] if channels > 2 else np.repeat(values[..., :1], 3, axis=-1)
  np.testing.assert_array_equal(images.decoded(file), scaled(used, 65535))
  # Of colours Pillow keeps the upper 8 bits.
  assert abs(pixels.read_file(file)[0].astype(int) - images.decoded(file)).max() <= (channels > 1)
  eight = (values >> 8).astype(np.uint8)
  np.testing.assert_array_equal(images.decoded(png(eight, color=color)), used >> 8)


def test_a_png_with_a_palette_and_transparent_colors():
  palette = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)
  index = np.arange(12, dtype=np.uint8).reshape(3, 4)
  chunks = chunk(b"PLTE", palette.tobytes()) + chunk(b"tRNS", bytes(range(256)))
  np.testing.assert_array_equal(images.decoded(png(index, color=3, chunks=chunks)), palette[index])


@pytest.mark.parametrize(
  ("dtype", "options", "values", "expected"),
  [
    ("<u2", dict(bits=16, photometric=0), [0, 32768, 65535], [255, 127, 0]),
    ("<i2", dict(bits=16, sample_format=2), [0, 16384, 32767], [0, 128, 255]),
    ("<i2", dict(bits=16, sample_format=2), [-1000, 0, 3000], [0, 64, 255]),
    ("<u4", dict(bits=32), [0, 100, 255], [0, 100, 255]),
    ("<u4", dict(bits=32), [0, 32768, 65535], [0, 128, 255]),
    ("<u4", dict(bits=32), [0, 2**31, 2**32 - 1], [0, 128, 255]),
    ("<i4", dict(bits=32, sample_format=2), [0, 2**30, 2**31 - 1], [0, 128, 255]),
    ("<f4", dict(bits=32, sample_format=3), [0.0, 0.25, 1.0], [0, 64, 255]),
    ("<f4", dict(bits=32, sample_format=3, photometric=0), [0.0, 0.25, 1.0], [255, 191, 0]),
    ("<f4", dict(bits=32, sample_format=3), [0.0, 100.4, 255.0], [0, 100, 255]),
    ("<f4", dict(bits=32, sample_format=3), [0.0, 32768.0, 65535.0], [0, 128, 255]),
    ("<f4", dict(bits=32, sample_format=3), [0.0, 5e5, 1e6], [0, 128, 255]),
    ("<f4", dict(bits=32, sample_format=3), [-0.04, 0.5, 1.04], [0, 128, 255]),
    ("<f4", dict(bits=32, sample_format=3), [-1.0, 0.0, 1.0], [0, 128, 255]),
    ("<f4", dict(bits=32, sample_format=3), [-2.0, 0.0, 3.0], [0, 102, 255]),
    ("<f4", dict(bits=32, sample_format=3), [0.5, 0.5, 0.5], [128, 128, 128]),
    ("<f4", dict(bits=32, sample_format=3), [0.0, 0.0, 0.0], [0, 0, 0]),
    ("<f4", dict(bits=32, sample_format=3), [-3.0, -3.0, -3.0], [0, 0, 0]),
  ],
)
def test_integers_and_floats_are_scaled_by_their_range(dtype, options, values, expected):
  file = tiff(np.array([values], dtype), **options)
  np.testing.assert_array_equal(decoded_grey(file), [expected])


def test_12_bits_fill_the_scale():
  # Two values share three bytes.
  packed = np.array([[0x00, 0x0F, 0xFF]], np.uint8)
  file = tiff(packed, bits=12, t256=2)
  np.testing.assert_array_equal(decoded_grey(file), [[0, 255]])


@pytest.mark.parametrize("kind", ["TIFF", "IM"])
def test_a_float_image_that_pillow_writes(kind):
  values = np.linspace(0, 1, 36, dtype=np.float32).reshape(4, 9)
  np.testing.assert_array_equal(decoded_grey(encoded(Image.fromarray(values), kind)), scaled(values, 1))


def test_floats_that_are_not_finite_are_named():
  file = tiff(np.array([[0, np.nan, 1]], "<f4"), bits=32, sample_format=3)
  assert images.damage(file) == "some of its pixels are not finite numbers"
  source = data.Source("x", ("a",), np.zeros(1), data.Encoded([file]))
  with pytest.raises(DataError, match="example 0 cannot be read: some of its pixels are not finite"):
    source.read(0)


def test_deep_images_come_through_the_pipeline(tmp_path):
  """Encoded in memory and from files; the same pixels as outside the pipeline."""
  ramp = np.arange(16, dtype=np.float32).reshape(4, 4) / 15
  files = [encoded(Image.fromarray(ramp), "TIFF"), png((ramp * 65535).astype(np.uint16), color=0)]
  source = data.Source("x", ("a",), np.zeros(2), data.Encoded(files))
  (batch,) = data.eval_batches(source, [], batch_size=2)
  np.testing.assert_array_equal(batch["image"][..., 2], [scaled(ramp, 1)] * 2)


def test_other_images_are_as_before():
  image = smooth_image(20, 30)
  for kind in ("BMP", "TIFF", "PPM", "PNG", "TGA"):
    np.testing.assert_array_equal(images.decoded(encoded(image, kind)), image)
