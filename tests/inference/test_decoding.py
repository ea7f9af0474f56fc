"""Files give the pixels that the pipeline gives, and the same files are unreadable."""

import io
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jaxtl.data.transforms import images
from jaxtl.inference import decoding
from jaxtl.inference.decoding import UnreadableError, decode
from tests.data.made_files import png
from tests.data.made_images import encoded, smooth_image

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (37, 51, 3)).astype(np.uint8)
GREY16 = RNG.integers(0, 65536, (9, 7)).astype(np.uint16)


def jpeg(image, **options):
  file = io.BytesIO()
  image.save(file, "JPEG", **options)
  return file.getvalue()


def without_adobe(file):
  """The same JPEG without the marker that says whether its inks are inverted."""
  at = file.index(b"\xff\xee")
  return file[:at] + file[at + 2 + struct.unpack_from(">H", file, at + 2)[0] :]


def turned_sampling(file):
  """A JPEG with chroma halved across, marked as halved down: what lossless rotation of a photo leaves."""
  at = file.index(b"\xff\xc0") + 11
  assert file[at] == 0x21
  return file[:at] + b"\x12" + file[at + 1 :]


def files():
  image = Image.fromarray(NOISE)
  square = Image.fromarray(RNG.integers(0, 256, (48, 48, 3)).astype(np.uint8))
  for name, options in {
    "baseline": dict(quality=90),
    "halved": dict(quality=60, subsampling=1),
    "quartered": dict(quality=30, subsampling=2),
    "progressive": dict(progressive=True),
  }.items():
    yield f"jpeg {name}", jpeg(image, **options)
  yield "jpeg turned chroma", turned_sampling(jpeg(square, subsampling=1))
  yield "jpeg grey", jpeg(image.convert("L"))
  yield "jpeg cmyk of adobe", jpeg(image.convert("CMYK"))
  yield "jpeg cmyk", without_adobe(jpeg(image.convert("CMYK")))
  for mode in ("RGB", "RGBA", "L", "LA", "P", "1"):
    yield f"png {mode}", encoded(image.convert(mode), "PNG")
  yield "png 16-bit grey", png(GREY16[..., None], color=0)
  yield "png 16-bit colour", png(np.stack([GREY16] * 3, axis=-1), color=2)
  yield "png 16-bit grey with opacity", png(np.stack([GREY16] * 2, axis=-1), color=4)
  for kind in ("GIF", "BMP", "TIFF", "PPM"):
    yield kind, encoded(image, kind)
  yield "webp", encoded(image, "WEBP", lossless=True)
  for number in range(1, 9):
    tags = Image.Exif()
    tags[0x0112] = number
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
      yield f"{kind} of orientation {number}", encoded(smooth_image(20, 30), kind, exif=tags.tobytes())


FILES = dict(files())


@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_the_pixels_are_those_of_the_pipeline(name, upright):
  expected = images.decode(FILES[name], upright=upright).numpy()
  found = decode(FILES[name], upright=upright)
  assert found.dtype == np.uint8
  np.testing.assert_array_equal(found, expected)


def test_orientation_flips_something():
  turned = FILES["JPEG of orientation 6"]
  assert decode(turned).shape == decode(turned, upright=False).transpose(1, 0, 2).shape
  assert decode(turned).shape != decode(turned, upright=False).shape


def damaged(rng, file):
  file = bytearray(file)
  kind = rng.integers(3)
  at = int(rng.integers(len(file)))
  if kind == 0:
    del file[at:]
  elif kind == 1:
    file[at] ^= 1 << int(rng.integers(8))
  else:
    del file[at : at + int(rng.integers(1, 40))]
  return bytes(file)


def verdict(read, file, errors):
  try:
    return np.asarray(read(file))
  except errors:
    return None


def test_400_damaged_files_have_the_pipeline_s_verdict_and_pixels():
  from jaxtl.data.lazy_tensorflow import tf

  rng = np.random.default_rng(1)
  names = [name for name in FILES if "orientation" not in name]
  unreadable = 0
  for _ in range(400):
    name = names[rng.integers(len(names))]
    file = damaged(rng, FILES[name])
    expected = verdict(images.decoded, file, tf.errors.OpError)
    found = verdict(decode, file, UnreadableError)
    assert (found is None) == (expected is None), name
    unreadable += found is None
    if found is not None:
      np.testing.assert_array_equal(found, expected, err_msg=name)
  assert 100 < unreadable < 400


@pytest.mark.parametrize(
  ("file", "said"),
  [
    (b"", "it is empty"),
    (b"hello", "not an image (5 bytes)"),
    (FILES["jpeg baseline"][:300], "truncated or damaged JPEG of 300 bytes"),
    (FILES["png RGB"][:300], "truncated or damaged PNG of 300 bytes"),
    (FILES["webp"][:300], "truncated or damaged WebP of 300 bytes"),
  ],
)
def test_the_reason_is_the_one_that_an_evaluation_gives(file, said):
  with pytest.raises(UnreadableError) as error:
    decode(file)
  assert str(error.value) == images.damage(file) == said


def test_floats_that_are_not_finite_are_named():
  values = np.full((4, 4), np.nan, np.float32)
  with pytest.raises(UnreadableError, match="not finite"):
    decode(encoded(Image.fromarray(values), "TIFF"))


def test_another_jpeg_library_is_not_used(monkeypatch):
  """Its pixels may be rounded otherwise; TensorFlow decodes instead."""
  used = []
  monkeypatch.setattr(decoding.features, "check_feature", lambda name: False)
  monkeypatch.setattr(decoding, "_by_tensorflow", lambda encoded, upright: used.append(upright) or NOISE)
  decode(FILES["jpeg baseline"])
  decode(FILES["png RGB"])
  assert used == [True]


@pytest.mark.slow
def test_only_files_that_pillow_would_read_otherwise_import_tensorflow(tmp_path):
  (tmp_path / "plain.jpg").write_bytes(FILES["jpeg baseline"])
  (tmp_path / "deep.png").write_bytes(FILES["png 16-bit colour"])
  code = (
    "import sys; from pathlib import Path; from jaxtl.inference.decoding import decode\n"
    "for path in sys.argv[1:]: decode(Path(path).read_bytes()); print('tensorflow' in sys.modules)"
  )
  paths = [str(tmp_path / name) for name in ("plain.jpg", "deep.png")]
  done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
  assert done.stdout.split() == ["False", "True"]
