"""What may be given as images, which pixels it becomes, and one line for everything else."""

import os

import numpy as np
import pytest
from PIL import Image

from jaxtl.data.transforms import images, pixels
from jaxtl.errors import DataError, InputError
from jaxtl.inference.decoding import UnreadableError
from jaxtl.inference.inputs import files_of, inputs_of, pixels_of
from jaxtl.inference.preprocess import Preprocess
from tests.data.made_images import encoded, smooth_image

PLAIN = Preprocess((), (8, 8))
GREY = np.arange(48, dtype=np.uint8).reshape(6, 8)


def write(path, content=b""):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content)
  return path


@pytest.fixture
def photos(tmp_path):
  """Images at two depths, beside files that are none, of users and of operating systems."""
  for name in ("b.jpg", "a/2.png", "a/10.PNG", "a/deep/x.webp", "z.gif"):
    write(tmp_path / "photos" / name)
  for name in (".hidden.jpg", "notes.txt", "__MACOSX/a.jpg", ".git/b.jpg", "a/Thumbs.db"):
    write(tmp_path / "photos" / name)
  return tmp_path / "photos"


def test_a_folder_gives_its_images_at_any_depth_sorted(photos):
  found = [each.name.removeprefix(f"{photos}/") for each in files_of([photos])]
  assert found == ["a/10.PNG", "a/2.png", "a/deep/x.webp", "b.jpg", "z.gif"]


def test_paths_keep_their_order_and_a_named_file_needs_no_suffix(photos):
  found = files_of([photos / "notes.txt", photos / "a", str(photos / "b.jpg")])
  names = [each.name.removeprefix(f"{photos}/") for each in found]
  assert names == ["notes.txt", "a/10.PNG", "a/2.png", "a/deep/x.webp", "b.jpg"]


def test_a_link_to_a_folder_above_is_refused(photos):
  (photos / "loop").symlink_to(photos)
  with pytest.raises(DataError, match="is a link to a folder that holds it"):
    files_of([photos])


def test_what_does_not_exist_and_what_holds_no_image_are_refused(photos):
  with pytest.raises(DataError, match=r"no image at .*nothing\.jpg: there is no such file or folder"):
    files_of([photos / "nothing.jpg"])
  (photos / "empty").mkdir()
  with pytest.raises(DataError, match=r"no image in the folder .*empty"):
    files_of([photos / "empty"])


def test_a_file_that_cannot_be_opened_is_unreadable(photos):
  (found,) = files_of([photos / "b.jpg"])
  os.remove(photos / "b.jpg")
  with pytest.raises(UnreadableError, match="the file cannot be opened"):
    found.raw(PLAIN)


def test_names_are_one_printable_line(tmp_path):
  write(tmp_path / "a\n\x1b[1m.jpg")
  (found,) = files_of([tmp_path])
  assert found.name.endswith("a\\n\\x1b[1m.jpg")


@pytest.mark.parametrize(
  ("array", "expected"),
  [
    (GREY, np.stack([GREY] * 3, axis=-1)[None]),
    (GREY[..., None], np.stack([GREY] * 3, axis=-1)[None]),
    (np.stack([GREY, 255 - GREY], axis=-1), np.stack([GREY] * 3, axis=-1)[None]),
    (smooth_image(6, 8), smooth_image(6, 8)[None]),
    (np.dstack([smooth_image(6, 8), GREY]), smooth_image(6, 8)[None]),
    (np.stack([smooth_image(6, 8)] * 2), np.stack([smooth_image(6, 8)] * 2)),
    (np.stack([GREY] * 2)[..., None], np.stack([np.stack([GREY] * 3, axis=-1)] * 2)),
    (GREY.astype(np.int64), np.stack([GREY] * 3, axis=-1)[None]),
    (GREY > 20, np.stack([np.where(GREY > 20, 255, 0)] * 3, axis=-1)[None]),
    (GREY.astype(np.uint16) * 257, np.stack([GREY] * 3, axis=-1)[None]),
    (GREY.astype(np.int32) * 257 + 60000, None),
    (GREY.astype(np.float64) + 0.25, (np.stack([GREY] * 3, axis=-1) + 0.25)[None]),
    (np.zeros((2, 2), np.float32), np.zeros((1, 2, 2, 3))),
  ],
  ids=lambda value: f"{getattr(value, 'dtype', '')}{getattr(value, 'shape', '')}",
)
def test_arrays_become_pixels(array, expected):
  found = pixels_of(array, name="it")
  assert found.dtype == (np.float32 if array.dtype.kind == "f" else np.uint8)
  if expected is None:  # beyond 65535: by the largest, as in a file of 32-bit integers
    expected = np.rint(array * (255 / array.max()))[..., None].repeat(3, axis=-1)[None]
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.bool_])
def test_integers_become_what_a_file_of_them_becomes(dtype):
  """The table of `jaxtl.data.transforms.pixels`, through a TIFF of the same numbers."""
  values = np.random.default_rng(0).integers(0, 30000, (7, 9))
  values = (values > 9000) if dtype is np.bool_ else values.astype(dtype)
  if dtype is np.int16:
    from tests.data.made_files import tiff

    expected = images.decoded(tiff(values, bits=16, sample_format=2))
  else:
    expected = images.decoded(encoded(Image.fromarray(values), "TIFF"))
  np.testing.assert_array_equal(pixels_of(values, name="it")[0], expected)


@pytest.mark.parametrize(
  ("array", "said"),
  [
    (np.zeros(3), r"image 0 is an array of shape \(3,\); expected an image \[H, W, 3\]"),
    (np.zeros((2, 4, 5), np.uint8), r"a batch of grey images is \[B, H, W, 1\]"),
    (np.zeros((0, 4, 3), np.uint8), "shape"),
    (np.full((2, 2), 300.0), "floats from 300 to 300; expected pixels from 0 to 255"),
    (np.full((2, 2), -1.0), "floats from -1 to -1"),
    (np.full((2, 2), np.nan), "floats from nan to nan"),
    (np.full((2, 2), 0.5), "multiply them by 255"),
    (np.full((2, 2), 1j), "holds complex128"),
    (np.full((2, 2), "a"), "holds <U1"),
    (3, "expected paths, Pillow images or arrays, got int"),
    ([3], "expected paths, Pillow images or arrays, got int"),
  ],
)
def test_everything_else_is_refused_in_one_line(array, said):
  with pytest.raises(InputError, match=said) as error:
    inputs_of(array)
  assert "\n" not in str(error.value)


def test_a_batch_counts_as_its_images_and_one_image_needs_no_list(photos):
  write(photos / "b.jpg", encoded(smooth_image(4, 4)))
  batch = np.stack([smooth_image(4, 5, seed=seed) for seed in range(3)])
  found = inputs_of([smooth_image(2, 2), batch, str(photos / "b.jpg"), Image.fromarray(batch[1])])
  names = [each.name for each in found]
  assert names == ["image 0", "image 1", "image 2", "image 3", str(photos / "b.jpg"), "image 5"]
  np.testing.assert_array_equal(found[2].raw(PLAIN), batch[1])
  np.testing.assert_array_equal(found[5].raw(PLAIN), batch[1])
  for single in (str(photos / "b.jpg"), photos / "b.jpg", Image.fromarray(batch[0]), batch[0]):
    assert len(inputs_of(single)) == 1
  assert inputs_of([]) == []


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "CMYK", "F", "I", "LAB"])
def test_pillow_s_images_are_converted_by_the_table(mode):
  image = Image.fromarray(smooth_image(6, 8)).convert("RGB" if mode == "LAB" else mode)
  if mode == "LAB":
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
  np.testing.assert_array_equal(inputs_of(image)[0].raw(PLAIN), pixels.rgb(image))


def test_an_opened_photo_is_turned_and_named_like_its_file(photos):
  tags = Image.Exif()
  tags[0x0112] = 6
  path = write(photos / "b.jpg", encoded(smooth_image(4, 9), "PNG", exif=tags.tobytes()))
  with Image.open(path) as image:
    (found,) = inputs_of(image)
  assert found.name == str(path)
  np.testing.assert_array_equal(found.raw(PLAIN), images.decoded(path.read_bytes()))


@pytest.mark.parametrize("content", [encoded(smooth_image(40, 40))[:700], None])
def test_an_image_that_pillow_cannot_read_is_refused(photos, content):
  nan = Image.fromarray(np.full((2, 2), np.nan, np.float32))
  image = nan if content is None else Image.open(write(photos / "b.jpg", content))
  with pytest.raises(DataError, match="cannot be read: ") as error:
    inputs_of(image)
  assert "\n" not in str(error.value)
