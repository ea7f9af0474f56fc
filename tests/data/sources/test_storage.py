"""Files on disk: what they are known by."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from PIL import Image

import jaxtl.data as data
from jaxtl.data.sources import storage


def write(folder, seed, *, size, kind):
  """Two classes of three files; all of one size in bytes, whatever the seed."""
  rng = np.random.default_rng(seed)
  for number in range(6):
    file = folder / "ab"[number % 2] / f"{number}.{kind}"
    file.parent.mkdir(parents=True, exist_ok=True)
    if kind == "bmp":
      Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(file)
    else:
      file.write_bytes(rng.bytes(size))
  return folder


def fingerprint(folder):
  return data.from_folder(folder=str(folder)).fingerprint()


@pytest.mark.parametrize(
  ("size", "kind"), [(8, "bmp"), (200, "bmp"), (1, "jpg"), (16_384, "jpg"), (90_000, "jpg")]
)
def test_images_of_the_same_size_in_bytes_are_other_data(tmp_path, size, kind):
  one = write(tmp_path / "one", 1, size=size, kind=kind)
  other = write(tmp_path / "other", 2, size=size, kind=kind)
  before = fingerprint(one)
  for file in sorted(other.rglob("*.*")):  # one after the other, with the time that the first had
    place = one / file.relative_to(other)
    times = place.stat()
    assert place.stat().st_size == file.stat().st_size
    shutil.copyfile(file, place)
    os.utime(place, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint(one) != before
    before = fingerprint(one)
  assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize("size", [1, 100, storage.SAMPLED_BLOCKS * storage.SAMPLED_BYTES])
def test_any_byte_of_a_small_file_counts(tmp_path, size):
  file = tmp_path / "x"
  content = bytearray(np.random.default_rng(0).bytes(size))
  file.write_bytes(content)
  before = storage.sampled(os.fsencode(file))
  for place in {0, size // 3, size - 1}:
    content[place] ^= 1
    file.write_bytes(content)
    assert storage.sampled(os.fsencode(file)) != before
    content[place] ^= 1
  file.write_bytes(content)
  assert storage.sampled(os.fsencode(file)) == before


def test_the_samples_of_a_large_file_are_spread_from_its_first_byte_to_its_last(tmp_path):
  file, size = tmp_path / "x", 400_000
  gap = size // (storage.SAMPLED_BLOCKS - 1)
  whole = storage.sampled(_zeros(file, size, None))
  for place in (0, size - 1):
    assert storage.sampled(_zeros(file, size, slice(place, place + 1))) != whole
  for start in range(0, size - gap, 10_007):  # no gap between samples is longer than this
    assert storage.sampled(_zeros(file, size, slice(start, start + gap))) != whole
  assert storage.sampled(_zeros(file, size + 1, None)) != whole


def _zeros(file, size, ones):
  content = np.zeros(size, np.uint8)
  if ones is not None:
    content[ones] = 1
  file.write_bytes(content.tobytes())
  return os.fsencode(file)


def test_a_copy_of_the_data_is_the_same_data(tmp_path):
  one = write(tmp_path / "one", 1, size=50_000, kind="jpg")
  before = fingerprint(one)
  shutil.copytree(one, tmp_path / "copy", copy_function=shutil.copyfile)
  for file in one.rglob("*.jpg"):
    os.utime(file, (1, 1))
    file.chmod(0o600)
  (tmp_path / "linked").symlink_to(one)
  assert before == fingerprint(one) == fingerprint(tmp_path / "copy") == fingerprint(tmp_path / "linked")


def test_a_renamed_a_missing_and_an_unreadable_file_are_other_data(tmp_path):
  one = write(tmp_path, 1, size=500, kind="jpg")
  source = data.from_folder(folder=str(one))
  found = {source.fingerprint()}
  (one / "a" / "4.jpg").rename(one / "a" / "5.jpg")
  found |= {source.fingerprint(), fingerprint(one)}
  (one / "a" / "5.jpg").unlink()
  found.add(fingerprint(one))
  assert len(found) == 4


def test_identities_stand_in_the_order_of_the_files(tmp_path):
  one = write(tmp_path, 1, size=10, kind="jpg")
  files = data.from_folder(folder=str(one)).images
  many = data.Files(files.root, list(files.paths) * 200)
  assert list(many.chunks()) == list(files.chunks()) * 200
  assert list(files.take(np.array([4, 0])).chunks()) == [list(files.chunks())[i] for i in (4, 0)]
