"""Class folders: every image of a tree is used, or the tree is refused, or what is left out is listed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import jaxtl.data as data
from jaxtl.data.sources import folder as folder_lib
from jaxtl.errors import DataError
from tests.data.made_images import encoded, smooth_image

GA, GA_APART = "\u30ac", "\u30ab\u3099"  # one letter in NFC and in NFD


def write_images(root: Path, *paths: str) -> Path:
  """Writes a different small PNG to each path."""
  for number, path in enumerate(paths):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encoded(smooth_image(8, 8, seed=number), "PNG"))
  return root


def opened(root: Path, **options: object) -> data.Source:
  return data.from_folder(folder=str(root), **options)


def refused(root: Path, said: str, **options: object) -> str:
  with pytest.raises(DataError, match=said) as caught:
    opened(root, **options)
  assert "\n" not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize(
  "extra",
  [
    *("cat/.ipynb_checkpoints/x.png", "dog/__MACOSX/._x.jpg", "dog/__MACOSX/x.jpg", "cat/._a.png"),
    *("cat/@eaDir/a.png", "cat/a/b/.thumbs/x.png", "__MACOSX/cat/x.png", "$RECYCLE.BIN/x.png"),
    *(".git/x.png", "@eaDir/x.png", "lost+found/x.png", "cat/__pycache__/x.png"),
  ],
)
def test_hidden_and_system_files_are_no_images(tmp_path, extra):
  write_images(tmp_path, "cat/a.png", "dog/b.png", extra)
  source = opened(tmp_path)
  assert source.images.paths == ["cat/a.png", "dog/b.png"]
  assert source.classes == ("cat", "dog")
  assert source.left_out == ()


def test_what_is_left_out_is_listed_with_the_reason(tmp_path):
  write_images(tmp_path, "cat/a.png", "dog/b.png", "loose.png", "cat/__old/c.png", "__other/d.png")
  write_images(tmp_path, "dog/heic/e.HEIC", "dog/f", "dog/Thumbs.db", "classes.txt")
  source = opened(tmp_path)
  assert source.left_out == ("__other/", "loose.png", "cat/__old/", "dog/f", "dog/heic/e.HEIC")
  line = data.left_out_line(source)
  assert line == (
    f'{tmp_path}: 5 files are left out: 2 folders whose name starts with "__", 1 outside the class folders, '
    "1 without a suffix, ... (__other/, loose.png, cat/__old/, ...)"
  )
  assert data.left_out_line(data.part_of(source=source, stop=1.0)) == line
  assert data.left_out_line(opened(write_images(tmp_path / "whole", "a/x.png", "b/x.png"))) is None


def test_joined_sources_keep_what_each_leaves_out(tmp_path):
  one = opened(write_images(tmp_path / "one", "a/x.png", "b/x.png", "b/y.heic"))
  assert data.joined(sources={"one": one, "again": one}).left_out == ("b/y.heic", "b/y.heic")


def test_links_to_folders_and_files_are_followed(tmp_path):
  other = write_images(tmp_path / "other", "x/1.png", "x/deep/2.png")
  root = write_images(tmp_path / "set", "cat/a.png", "dog/b.png")
  (root / "cat" / "more").symlink_to(other / "x")
  (root / "cow").symlink_to(other / "x" / "deep")
  (root / "dog" / "linked.png").symlink_to(other / "x" / "1.png")
  source = opened(root)
  assert source.images.paths == [
    *("cat/a.png", "cat/more/1.png", "cat/more/deep/2.png", "cow/2.png", "dog/b.png", "dog/linked.png")
  ]
  np.testing.assert_array_equal(source.labels, [0, 0, 0, 1, 2, 2])
  np.testing.assert_array_equal(source.read(1), source.read(5))


@pytest.mark.parametrize("target", ["..", ".", "../..", "../../..", "../dog", "/", "../../around"])
def test_links_that_lead_back_are_refused(tmp_path, target):
  root = write_images(tmp_path / "set", "cat/a.png", "dog/b.png")
  (tmp_path / "around").symlink_to(root / "dog")
  (root / "dog" / "z").symlink_to(target)
  refused(root, r"dog/z.* is a link to a folder that holds it; remove the link")


def test_two_links_that_lead_to_each_other_are_refused(tmp_path):
  root = write_images(tmp_path / "set", "cat/a.png", "dog/b.png")
  write_images(tmp_path / "other", "c.png")
  (root / "dog" / "to").symlink_to(tmp_path / "other")
  (tmp_path / "other" / "back").symlink_to(root / "dog")
  refused(root, "dog/to/back is a link to a folder that holds it")
  (tmp_path / "other" / "back").unlink()
  (tmp_path / "other" / "self").symlink_to("self")
  refused(root, "self cannot be read: Too many levels")


def test_a_link_to_nothing_is_refused_or_an_unreadable_image(tmp_path):
  root = write_images(tmp_path, "cat/a.png", "dog/b.png")
  for place in ("cat/more", "cow"):
    (root / place).symlink_to("nowhere")
    refused(root, f"{place} is a broken link; fix it or remove it")
    (root / place).unlink()
  (root / "cat" / "z.png").symlink_to("nowhere")
  source = opened(root)
  assert len(source) == 3
  with pytest.raises(OSError, match="No such file"):
    source.read(1)
  stream = lambda budget: data.eval_batches(  # noqa: E731
    source, [], batch_size=3, bad_records=data.BadRecords(budget)
  )
  assert next(iter(stream(1)))["mask"].sum() == 2
  with pytest.raises(DataError, match="1 unreadable image, 0 allowed"):
    next(iter(stream(0)))


@pytest.mark.parametrize("place", ["set", "set/cat", "set/cat/deep"])
def test_a_folder_that_cannot_be_read_is_refused(tmp_path, monkeypatch, place):
  # The tests may run as root, whom no permission stops.
  root = write_images(tmp_path / "set", "cat/a.png", "cat/deep/b.png", "dog/c.png")
  scan = os.scandir

  def scandir(folder):
    if str(folder) == str(tmp_path / place):
      raise PermissionError(13, "Permission denied", str(folder))
    return scan(folder)

  monkeypatch.setattr(os, "scandir", scandir)
  refused(root, f"{place} cannot be read: Permission denied")


def test_pipes_are_no_images(tmp_path):
  root = write_images(tmp_path, "cat/a.png", "dog/b.png")
  os.mkfifo(root / "cat" / "pipe.png")
  assert opened(root).images.paths == ["cat/a.png", "dog/b.png"]


def test_folders_may_be_deeper_than_python_calls(tmp_path):
  root = write_images(tmp_path, "cat/a.png", "dog/b.png")
  before, depth = Path.cwd(), 1200
  try:
    os.chdir(root / "cat")
    for _ in range(depth):
      os.mkdir("d")
      os.chdir("d")
    Path("x.png").write_bytes((root / "dog" / "b.png").read_bytes())
  finally:
    os.chdir(before)
  assert opened(root).images.paths[1] == f"cat/{'d/' * depth}x.png"
  subprocess.run(["rm", "-r", str(root / "cat")], check=True)  # pytest's own calls itself for each level


def test_names_are_compared_in_nfc(tmp_path):
  root = write_images(tmp_path / "set", f"{GA}/a.png", f"{GA_APART}/b.png", "x/c.png")
  source = opened(root)
  assert source.classes == ("x", GA)
  np.testing.assert_array_equal(source.labels, [0, 1, 1])
  for names in (["x", GA], ["x", GA_APART]):
    assert opened(root, classes=names).classes == ("x", GA)
    (root / "classes.json").write_text(json.dumps(names))
    assert opened(root).classes == ("x", GA)
  apart = write_images(tmp_path / "apart", f"{GA_APART}/{GA_APART}.png", "x/c.png")
  whole = write_images(tmp_path / "whole", f"{GA}/{GA}.png", "x/c.png")
  assert opened(apart).fingerprint() == opened(whole).fingerprint()


@pytest.mark.parametrize(
  ("name", "said"),
  [
    (os.fsdecode("ガ表".encode("shift_jis")), r"\x83K\x95" + "\\"),
    ("a\nb", r"a\nb"),
    ("a\rb\tc", r"a\rb\tc"),
    ("\x1b[31mred", r"\x1b[31mred"),
    ("a\x7f\x85b", r"a\x7f\x85b"),
    ("a\u2028b\u202eb", r"a\u2028b\u202eb"),
    ("zwj \U0001f469\u200d\U0001f52c", "zwj \U0001f469\u200d\U0001f52c"),
  ],
)
def test_every_name_works_and_is_shown_in_one_line(tmp_path, name, said):
  root = write_images(tmp_path / name, f"{name}/a.png", f"x/{name}.png")
  source = opened(root)
  assert source.name == said
  assert set(source.classes) == {said, "x"}
  assert {source.file_name(index) for index in range(2)} == {f"{said}/a.png", f"x/{said}.png"}
  assert len(source.fingerprint()) == 16
  batch = next(iter(data.eval_batches(source, [], batch_size=2)))
  np.testing.assert_array_equal(batch["image"][0], source.read(0))
  text = data.check_source(str(root), out=tmp_path / "out")
  assert text.encode()  # can be printed
  assert said in text
  assert len([line for line in text.splitlines() if line.endswith("  1")]) == 2
  refused(root, "is not one of the 1 classes", classes=["x" if source.classes[0] == said else said])
  assert opened(root, classes=[name, "x"]).classes == (said, "x")


def test_names_that_are_shown_alike_are_refused(tmp_path):
  refused(write_images(tmp_path, "a\nb/x.png", "a\\nb/x.png"), r"two class folders .* shown as a\\nb")


@pytest.mark.parametrize("second", ["valid", "validation", "dev", "eval", "test", "Testing", "val2017"])
def test_splits_are_no_classes(tmp_path, second):
  root = write_images(tmp_path, "train/cat/a.png", "train/dog/b.png", f"{second}/cat/a.png")
  refused(root, rf"holds the splits train, {second}; open one of them, like .*/train")
  assert opened(root, classes=[second, "train"]).classes == (second, "train")


@pytest.mark.parametrize(
  ("paths", "said"),
  [
    (["train/cat/a.png", "train/dog/b.png", "extra/cat/c.png"], "the splits train, next to extra"),
    (["train/a.png", "test/b.png", "extra/c.png"], "the splits train, test, next to extra"),
    (
      ["seg_train/cat/a.png", "seg_test/cat/a.png", "seg_pred/b.png"],
      "the splits seg_test, seg_train, next to seg_pred",
    ),
    (["cat/train/a.png", "cat/test/a.png", "dog/train/b.png"], "cat holds the splits test, train; write"),
  ],
)
def test_splits_beside_other_folders_are_refused_with_the_names(tmp_path, paths, said):
  refused(write_images(tmp_path, *paths), said)


@pytest.mark.parametrize(
  "names", [("bus", "train"), ("bullet_train", "test_tube"), ("crash test", "train station"), ("dev", "ops")]
)
def test_classes_may_have_a_splits_name(tmp_path, names):
  assert opened(write_images(tmp_path, *(f"{name}/a.png" for name in names))).classes == names


@pytest.mark.parametrize("above", ["images", "data/images"])
def test_a_single_class_of_folders_is_refused_and_the_folder_below_named(tmp_path, above):
  root = write_images(tmp_path / "train", f"{above}/cat/a.png", f"{above}/dog/b.png")
  refused(root, rf"has the single class .*; expected at least 2; {root}/{above} has the folders cat, dog")


def test_numbers_are_told_to_write_what_every_command_reads(tmp_path):
  root = write_images(tmp_path / "set", *(f"train/{name}/a.png" for name in ("1", "2", "10")), "val/1/b.png")
  line = refused(root / "train", "numbers that sort as 1, 10, 2")
  assert str(root / "train" / "classes.json") in line
  (root / "classes.json").write_text(line[line.index('["1"') : line.index(", ...] (")] + "]")
  assert opened(root / "train").classes == ("1", "2", "10")
  assert opened(root / "val").classes == ("1", "2", "10")


def test_the_suffixes_that_are_left_out_are_those_that_nothing_decodes():
  assert folder_lib.why_left_out("a/b.HEIC") == "with the suffix .heic"
  assert folder_lib.why_left_out("a/b") == "without a suffix"
  assert folder_lib.why_left_out("b.png") == "outside the class folders"
