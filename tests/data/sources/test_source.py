"""Sources: contents, labels, parts, fingerprints, and what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import jaxtl.data as data
from jaxtl.data.sources import bundled, glyphs
from jaxtl.errors import DataError
from tests.data.made_images import encoded, smooth_image

GRAY = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)


def test_grayscale_arrays_become_three_equal_channels():
  source = data.from_arrays(images=GRAY, labels=[0, 1, 2, 1], name="gray", kind="synthetic")
  assert source.images.shape == (4, 5, 6, 3)
  np.testing.assert_array_equal(source.read(2)[..., 1], GRAY[2])
  assert (source.classes, source.name, source.kind, len(source)) == (("0", "1", "2"), "gray", "synthetic", 4)
  assert source.labels.dtype == np.int32


@pytest.mark.parametrize(
  ("labels", "said"),
  [
    ([0, 1, 5, 1], "example 2 has the label 5"),
    ([0, -1, 0, 1], "example 1 has the label -1"),
    ([0, np.nan, 0, 1], "example 1 has the label nan"),
    ([0, 0.5, 0, 1], "example 1 has the label 0.5"),
    ([0, 1], "4 images but labels of shape"),
    (["a", "b", "a", "b"], "expected integers"),
  ],
)
def test_labels_that_do_not_fit_are_refused(labels, said):
  with pytest.raises(DataError, match=said) as caught:
    data.from_arrays(images=GRAY, labels=labels, classes=["a", "b"])
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("labels", "said"), [(list("abab"), "labels are <U1"), ([0, np.inf, 0, 1], "has the label inf")]
)
def test_labels_that_are_no_numbers_are_refused_where_classes_are_counted(labels, said):
  refused(lambda: data.from_arrays(images=GRAY, labels=labels), said)


def test_wrong_arrays_are_refused():
  with pytest.raises(DataError, match="uint8"):
    data.from_arrays(images=GRAY.astype(np.float32), labels=[0] * 4)
  with pytest.raises(DataError, match="shape"):
    data.from_arrays(images=GRAY[0], labels=[0] * 5)
  with pytest.raises(DataError, match="'real' or 'synthetic'"):
    data.from_arrays(images=GRAY, labels=[0] * 4, kind="fake")


def test_fingerprint_depends_on_names_labels_and_pixels_only():
  make = lambda images=GRAY, labels=(0, 1, 0, 1), classes="ab", name="x": data.from_arrays(  # noqa: E731
    images=images, labels=list(labels), classes=list(classes), name=name
  ).fingerprint()
  assert make() == make(name="y")
  assert len({make(), make(GRAY + 1), make(labels=(1, 1, 0, 1)), make(classes="ac")}) == 4


def test_parts_are_stratified_disjoint_and_complete(numbered):
  source = numbered(700)
  train, test = data.part_of(source=source, stop=0.9), data.part_of(source=source, start=0.9)
  indices = [sorted(int(i[0]) + 256 * int(i[1]) for i in part.images[:, 0, 0]) for part in (train, test)]
  assert sorted(indices[0] + indices[1]) == list(range(700))
  np.testing.assert_array_equal(np.bincount(test.labels), [10] * 7)
  assert test.name == "arrays[0.9:1]"
  other = data.part_of(source=source, start=0.9, seed=1)
  assert not np.array_equal(other.images, test.images)
  np.testing.assert_array_equal(test.labels, test.images[:, 0, 0, 0].astype(int) % 256 * 0 + test.labels)


def test_parts_refuse_empty_and_reversed_ranges(numbered):
  with pytest.raises(DataError, match="start < stop"):
    data.part_of(source=numbered(70), start=0.5, stop=0.5)
  with pytest.raises(DataError, match="widen"):
    data.part_of(source=numbered(70), stop=0.01)


def write_parquet(path, labels, *, images=None, **columns):
  images = images or [encoded(smooth_image(9, 9, seed=i), "PNG") for i in range(len(labels))]
  pq.write_table(pa.table({"image": images, "label": labels, **columns}), path)


def test_parquet_reads_columns_classes_and_names(tmp_path):
  file = tmp_path / "train.parquet"
  write_parquet(file, [0, 1, 1], fine=[2, 1, 0], filename=["a.png", "b.png", "c.png"])
  (tmp_path / "classes.json").write_text(json.dumps(["cat", "dog"]))
  (tmp_path / "fine.json").write_text(json.dumps(["x", "y", "z"]))
  source = data.from_parquet(path="train.parquet", data_dir=tmp_path)
  assert source.classes == ("cat", "dog")
  assert source.name == f"{tmp_path.name}/train"
  assert source.where(1) == "example 1 (b.png)"
  np.testing.assert_array_equal(source.read(2), smooth_image(9, 9, seed=2))
  fine = data.from_parquet(path=str(file), label_column="fine", classes="fine.json", name="f")
  np.testing.assert_array_equal(fine.labels, [2, 1, 0])
  assert (fine.classes, fine.name) == (("x", "y", "z"), "f")
  assert data.from_parquet(path=str(file), classes=["p", "q"]).classes == ("p", "q")
  assert fine.fingerprint() != source.fingerprint()


def test_parquet_structs_of_bytes_are_read(tmp_path):
  image = encoded(smooth_image(9, 9), "PNG")
  table = pa.table({"picture": [{"bytes": image, "path": "a"}], "label": [0]})
  pq.write_table(table, tmp_path / "x.parquet")
  source = data.from_parquet(path="x.parquet", data_dir=tmp_path, image_column="picture", classes=["a"])
  np.testing.assert_array_equal(source.read(0), smooth_image(9, 9))


def test_parquet_errors_are_one_line(tmp_path):
  write_parquet(tmp_path / "a.parquet", [0, 3], filename=["a.png", "b.png"])
  for options, said in (
    (dict(path="b.parquet"), "there is no"),
    (dict(path="a.parquet"), "classes.json"),
    (dict(path="a.parquet", classes=["x"], label_column="y"), "no column 'y'; it has image, label"),
    (dict(path="a.parquet", classes=["x"]), r"example 1 \(b.png\) has the label 3"),
    (dict(path=".", classes=["x"], split="b"), "has no split 'b'; it has a"),
    (dict(path="a.parquet", classes=["x"], split="a"), "is one file; give its folder"),
  ):
    with pytest.raises(DataError, match=said):
      data.from_parquet(data_dir=tmp_path, **options)


def refused(make, said):
  with pytest.raises(DataError, match=said) as caught:
    make()
  assert "\n" not in str(caught.value)


def test_damaged_parquet_files_and_columns_that_are_no_images_are_one_line(tmp_path):
  open_ = lambda path: lambda: data.from_parquet(path=path, data_dir=tmp_path, classes=["x"])  # noqa: E731
  write_parquet(tmp_path / "cut.parquet", [0] * 5)
  contents = (tmp_path / "cut.parquet").read_bytes()
  (tmp_path / "cut.parquet").write_bytes(contents[:200])
  (tmp_path / "pages.parquet").write_bytes(contents[:4] + b"\xff" * 300 + contents[304:])
  (tmp_path / "junk.parquet").write_bytes(b"junk" * 99)
  (tmp_path / "empty.parquet").write_bytes(b"")
  for name in ("cut", "pages", "junk", "empty"):
    refused(open_(f"{name}.parquet"), f"{name}.parquet cannot be read as Parquet: ")
  write_parquet(tmp_path / "int.parquet", [0, 0], images=[3, 4])
  refused(open_("int.parquet"), "example 0 has int in column 'image'; expected the bytes")
  write_parquet(tmp_path / "text.parquet", [0], images=[{"path": "a.png"}])
  refused(open_("text.parquet"), "example 0 has no image in column 'image'")
  not_utf8 = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"], pa.binary()).buffers())
  write_parquet(tmp_path / "utf8.parquet", [0], filename=not_utf8)
  refused(open_("utf8.parquet"), "utf8.parquet cannot be read as Parquet: 'utf-8' codec")


@pytest.mark.parametrize(
  "contents", [b"", b"junk" * 99, b"PK\x03\x04" + b"x" * 99], ids=["empty", "junk", "zip"]
)
def test_damaged_npz_files_are_one_line(tmp_path, contents):
  file = tmp_path / "d.npz"
  file.write_bytes(contents)
  refused(lambda: data.from_npz(path=str(file), split="train"), "d.npz cannot be read as npz: ")
  refused(lambda: data.open_source(str(file)), "d.npz cannot be read as npz: ")


def test_npz_files_of_something_else_are_one_line(tmp_path):
  file = tmp_path / "d.npz"
  open_ = lambda: data.from_npz(path=str(file), split="train")  # noqa: E731
  np.savez(file, train_images=GRAY, train_labels=[0, 1, 0, 1])
  contents = bytearray(file.read_bytes())
  contents[150] ^= 255
  file.write_bytes(contents)
  refused(open_, "cannot be read as npz: ")
  np.savez(file, train_images=GRAY, train_labels=np.array(list("abab")))
  refused(open_, "labels are <U1")
  np.savez(file, train_images=GRAY, train_labels=[0, 1, np.inf, 1])
  refused(open_, "example 2 has the label inf; expected an integer from 0 to 1")
  np.savez(file, **{"a\nb_images": GRAY, "c": GRAY})
  refused(open_, r"it has 'a\\nb_images', c")
  np.savez(file, train_images=GRAY, train_labels=np.array([None] * 4))
  refused(open_, "cannot be read as npz: ")
  with file.open("wb") as opened:
    np.save(opened, GRAY)
  refused(open_, "single array")


@pytest.mark.parametrize("contents", [b"", b"[1,", b'["caf\xe9"]', b"{}", b"[1]"])
def test_damaged_class_lists_are_one_line(jpeg_folder, contents):
  (jpeg_folder / "classes.json").write_bytes(contents)
  refused(
    lambda: data.from_folder(folder=str(jpeg_folder)), r"classes\.json (cannot be read as|should hold a) JSON"
  )


def test_two_classes_of_one_name_are_refused(jpeg_folder):
  names = ["cat", "dog", "cat"]
  said = "names 'cat' for the labels 0 and 2; give each class a name of its own"
  refused(lambda: data.from_arrays(images=GRAY, labels=[0] * 4, classes=names), said)
  refused(lambda: data.from_folder(folder=str(jpeg_folder), classes=names), said)
  (jpeg_folder / "classes.json").write_text(json.dumps(names))
  refused(lambda: data.from_folder(folder=str(jpeg_folder)), said)


# Format 1.0 with 246 bytes of text: where they are damaged, numpy quotes them all, or its tokenizer fails.
NPY_HEADER = b"\x93NUMPY\x01\x00\xf6\x00{'descr': '|u1', 'fortran_order': False, 'shape': (900,), }".ljust(
  256
)


def write_sheets(folder):
  tiles = np.random.default_rng(0).integers(0, 256, (100, 160, 3), dtype=np.uint8)
  Image.fromarray(tiles).save(folder / "sheet_000.webp", lossless=True)
  np.save(folder / "labels.npy", np.zeros(900, np.uint8))
  (folder / "info.json").write_text(json.dumps({"n_train": 800, "classes": ["a"]}))


@pytest.mark.parametrize(
  ("file", "contents", "said"),
  [
    ("labels.npy", b"junk", "labels.npy cannot be read as npy"),
    ("labels.npy", b"", "labels.npy cannot be read as npy"),
    ("labels.npy", NPY_HEADER.replace(b")", b"("), "labels.npy cannot be read as npy: .*EOF"),
    (
      "labels.npy",
      NPY_HEADER.replace(b"False,", b"False "),
      r"Cannot parse header: .{90,140} \.\.\.; replace it",
    ),
    ("labels.npy", np.zeros((3, 2)), "should hold one array of shape"),
    ("labels.npy", np.zeros(0, int), "holds no pictures"),
    ("labels.npy", np.zeros(1001, int), "hold 1000 pictures; labels.npy has more|there is no .*sheet_001"),
    ("info.json", b"{", "info.json cannot be read as JSON"),
    ("info.json", b"\xff\xfe", "info.json cannot be read as JSON"),
    ("info.json", b"[]", "JSON mapping"),
    ("info.json", b'{"classes": "a"}', "JSON list of class names"),
    ("info.json", b'{"n_train": "many", "classes": ["a"]}', "n_train is 'many'"),
    ("domain.npy", b"junk", "domain.npy cannot be read as npy"),
    ("domain.npy", np.zeros(5, int), "has 5 entries; expected one for each of 900 labels"),
    ("domain.npy", np.zeros(900, int), "names no domains"),
    (
      "info.json",
      b'{"n_train": 901, "classes": ["a", "b"]}',
      "n_train is 901, and labels.npy has 900 labels",
    ),
    ("sheet_000.webp", b"junk", "sheet_000.webp cannot be read as a picture"),
    ("sheet_000.webp", encoded(smooth_image(4, 9), "PNG"), "4 x 9 pixels; expected rows of 40"),
    ("sheet_000.webp", encoded(smooth_image(4, 160), "PNG"), "hold 40 pictures; labels.npy has more"),
  ],
)
def test_damaged_sheets_are_one_line(tmp_path, file, contents, said):
  write_sheets(tmp_path)
  if isinstance(contents, bytes):
    (tmp_path / file).write_bytes(contents)
  else:
    np.save(tmp_path / file, contents)

  def pixels():
    return [source.pixels for source in data.open_source(str(tmp_path)).values()]

  refused(pixels, said)


def test_pictures_of_a_domain_without_a_name_are_refused(tmp_path):
  write_sheets(tmp_path)
  (tmp_path / "info.json").write_text(json.dumps({"classes": ["a", "b"], "domains": ["x", "y"]}))
  np.save(tmp_path / "domain.npy", np.arange(900) % 3)
  refused(
    lambda: data.open_source(str(tmp_path)),
    r"picture 2 is of domain 2; .* 0 to 1 \(pictures like this: 300\)",
  )
  np.save(tmp_path / "domain.npy", np.arange(900) % 2)
  assert {name: len(source) for name, source in data.open_source(str(tmp_path)).items()} == {
    "x": 450,
    "y": 450,
  }


@pytest.mark.parametrize("label", [1000, 10**9, 2**63 - 1, 1e300])
def test_labels_that_no_class_list_explains_are_refused(tmp_path, label):
  said = r"the largest label is \d+, for 4 images; expected labels from 0 on, below 1000"
  labels = np.array([0, 1, 2, label])
  refused(lambda: data.from_arrays(images=GRAY, labels=labels), said)
  np.savez(tmp_path / "d.npz", train_images=GRAY, train_labels=labels)
  refused(lambda: data.open_source(str(tmp_path / "d.npz")), said)
  refused(
    lambda: data.from_npz(path="d.npz", split="train", data_dir=tmp_path, classes=list("abc")),
    "expected an integer from 0 to 2",
  )
  # Parquet needs a class list, whose length is the bound.
  pixel = encoded(smooth_image(4, 4), "PNG")
  if labels.dtype.kind == "i":
    pq.write_table(pa.table({"image": [pixel] * 4, "label": labels}), tmp_path / "d.parquet")
    refused(
      lambda: data.from_parquet(path="d.parquet", data_dir=tmp_path, classes=list("abc")),
      f"example 3 has the label {label}; expected an integer from 0 to 2",
    )


def test_labels_up_to_the_bound_need_no_class_list():
  assert len(data.from_arrays(images=GRAY, labels=[0, 1, 2, 999]).classes) == 1000
  many = np.zeros((2000, 1, 1, 3), np.uint8)
  assert len(data.from_arrays(images=many, labels=np.arange(2000)).classes) == 2000


def test_class_names_of_every_source_are_compared_in_nfc():
  make = lambda *classes: data.from_arrays(images=GRAY, labels=[0, 1, 0, 1], classes=classes)  # noqa: E731
  assert make("\u30ab\u3099", "b").classes == make("\u30ac", "b").classes == ("\u30ac", "b")
  assert make("\u30ab\u3099", "b").fingerprint() == make("\u30ac", "b").fingerprint()
  refused(lambda: make("\u30ab\u3099", "\u30ac"), "for the labels 0 and 1")


def test_folders_hold_every_format_that_pillow_opens(tmp_path):
  kinds = {"jp2": "JPEG2000", "dds": "DDS", "pcx": "PCX", "TIF": "TIFF", "sgi": "SGI", "webp": "WEBP"}
  (tmp_path / "a").mkdir()
  for suffix, kind in kinds.items():
    (tmp_path / "a" / f"x.{suffix}").write_bytes(encoded(smooth_image(16, 16), kind))
  for suffix in ("eps", "pdf", "mpg", "txt"):
    (tmp_path / "a" / f"x.{suffix}").write_bytes(b"x")
  source = data.from_folder(folder=str(tmp_path))
  assert sorted(source.images.paths) == sorted(f"a/x.{suffix}" for suffix in kinds)
  assert all(source.read(index).shape == (16, 16, 3) for index in range(len(source)))


def test_npz_splits_share_their_classes(tmp_path):
  np.savez(
    tmp_path / "d.npz", train_images=GRAY, train_labels=[0, 1, 0, 1], test_images=GRAY[:1], test_labels=[2]
  )
  source = data.from_npz(path="d.npz", split="train", data_dir=tmp_path)
  assert (source.classes, source.name) == (("0", "1", "2"), "d/train")
  assert (
    data.from_npz(path="d.npz", split="test", data_dir=tmp_path, classes=list("abc"), name="n").name == "n"
  )
  with pytest.raises(DataError, match="val_images"):
    data.from_npz(path="d.npz", split="val", data_dir=tmp_path)
  np.savez(tmp_path / "k.npz", x_train=GRAY, y_train=[[0], [1], [0], [1]])
  np.testing.assert_array_equal(
    data.from_npz(path="k.npz", split="train", data_dir=tmp_path).labels, [0, 1, 0, 1]
  )


def test_npz_files_may_hold_further_targets(tmp_path):
  depth, other = np.arange(4.0), np.ones((1, 2, 2))
  arrays = dict(train_images=GRAY, train_depth=depth, train_far_images=GRAY[:1], train_far_depth=other)
  more = dict(train_mean=np.zeros(3), train_names=np.array(list("abcd")), train_facts=np.array([None] * 4))
  np.savez(tmp_path / "d.npz", **arrays, **more)
  source = data.from_npz(path="d.npz", split="train", data_dir=tmp_path)
  assert (source.classes, set(source.targets), list(source.target_specs)) == ((), {"depth"}, ["depth"])
  np.testing.assert_array_equal(source.targets["depth"], depth)
  assert set(data.open_source("d.npz", data_dir=tmp_path)) == {"train", "train_far"}
  far = data.from_npz(path="d.npz", split="train_far", data_dir=tmp_path)
  np.testing.assert_array_equal(far.targets["depth"], other)
  np.savez(tmp_path / "l.npz", train_images=GRAY, train_labels=[0, 1, 0, 1], train_depth=depth)
  labelled = data.from_npz(path="l.npz", split="train", data_dir=tmp_path)
  assert (labelled.classes, list(labelled.target_specs)) == (("0", "1"), ["label", "depth"])
  opened = lambda: data.from_npz(path="n.npz", split="train", data_dir=tmp_path)  # noqa: E731
  for arrays in (
    dict(train_images=GRAY, train_mean=np.zeros(3)),
    dict(train_images=np.uint8(1), train_a=depth),
  ):
    np.savez(tmp_path / "n.npz", **arrays)
    refused(opened, "no train_images and train_labels")


def test_sheets_are_cut_in_row_major_order(tmp_path):
  tiles = np.random.default_rng(0).integers(0, 256, (1010, 4, 4, 3), dtype=np.uint8)
  padded = np.concatenate([tiles, np.zeros((990, 4, 4, 3), np.uint8)]).reshape(2, 25, 40, 4, 4, 3)
  for number, sheet in enumerate(padded):
    Image.fromarray(sheet.swapaxes(1, 2).reshape(100, 160, 3)).save(
      tmp_path / f"sheet_{number:03d}.webp", lossless=True
    )
  np.save(tmp_path / "labels.npy", np.arange(1010, dtype=np.uint8) % 3)
  (tmp_path / "info.json").write_text(json.dumps({"n_train": 1003, "n_test": 7, "classes": ["a", "b", "c"]}))
  train = data.from_sheets(folder=tmp_path.name, split="train", data_dir=tmp_path.parent)
  test = data.from_sheets(folder=str(tmp_path), split="test")
  np.testing.assert_array_equal(train.pixels, tiles[:1003])
  np.testing.assert_array_equal(test.pixels, tiles[1003:])
  np.testing.assert_array_equal(test.labels, np.arange(1003, 1010) % 3)
  np.testing.assert_array_equal(data.part_of(source=test, stop=0.5).pixels.shape[1:], (4, 4, 3))
  with pytest.raises(DataError, match="it has train, test"):
    data.from_sheets(folder=str(tmp_path), split="val")


def test_folders_give_files_classes_and_names(jpeg_folder):
  (jpeg_folder / "cat" / "notes.txt").write_text("not an image")
  (jpeg_folder / ".hidden").mkdir()
  source = data.from_folder(folder="pets", data_dir=jpeg_folder.parent)
  assert source.classes == ("cat", "dog")
  np.testing.assert_array_equal(source.labels, [0] * 6 + [1] * 6)
  assert source.where(7) == "example 7 (dog/dog1.jpg)"
  assert source.file_name(7) == "dog/dog1.jpg"
  assert source.read(0).shape == (40, 60, 3)
  reversed_ = data.from_folder(folder=str(jpeg_folder), classes=["dog", "cat", "cow"], name="p")
  np.testing.assert_array_equal(reversed_.labels, [1] * 6 + [0] * 6)
  (jpeg_folder / "classes.json").write_text(json.dumps(["dog", "cat"]))
  assert data.from_folder(folder=str(jpeg_folder)).classes == ("dog", "cat")
  fingerprint = source.fingerprint()
  (jpeg_folder / "dog" / "dog1.jpg").write_bytes(b"")
  assert source.fingerprint() != fingerprint


def test_folder_errors_are_one_line(tmp_path, jpeg_folder):
  (tmp_path / "empty").mkdir()
  for folder, said in (("missing", "there is no"), ("empty", "no class folders")):
    with pytest.raises(DataError, match=said):
      data.from_folder(folder=folder, data_dir=tmp_path)
  with pytest.raises(DataError, match="not one of the 1 classes"):
    data.from_folder(folder=str(jpeg_folder), classes=["cat"])
  (jpeg_folder / "cow").mkdir()
  with pytest.raises(DataError, match="holds no image files"):
    data.from_folder(folder=str(jpeg_folder))


def test_numeric_folders_that_sort_as_text_are_refused(tmp_path):
  for name in ("1", "2", "10"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.png").write_bytes(encoded(smooth_image(4, 4), "PNG"))
  with pytest.raises(DataError, match="classes="):
    data.from_folder(folder=str(tmp_path))
  source = data.from_folder(folder=str(tmp_path), classes=["1", "2", "10"])
  assert [source.classes[label] for label in source.labels] == ["1", "10", "2"]
  (tmp_path / "10").rename(tmp_path / "3")
  assert data.from_folder(folder=str(tmp_path)).classes == ("1", "2", "3")


def test_glyphs_depend_on_seed_split_and_index_alone():
  small = data.glyphs(num_examples=70, split="train")
  large = data.glyphs(num_examples=130, split="train")
  np.testing.assert_array_equal(small.pixels, large.pixels[:70])
  np.testing.assert_array_equal(np.bincount(large.labels, minlength=62)[:6], [3] * 6)
  assert (len(small.classes), small.kind) == (62, "synthetic")
  for other in (
    data.glyphs(num_examples=70, split="test"),
    data.glyphs(num_examples=70, split="train", seed=1),
  ):
    assert not (other.pixels == small.pixels).all((1, 2, 3)).any()
  assert data.glyphs(num_examples=2, split="test", size=48).pixels.shape == (2, 48, 48, 3)
  for options, said in (
    (dict(num_examples=3, split="dev"), "no split"),
    (dict(num_examples=0, split="test"), "least 1"),
  ):
    with pytest.raises(DataError, match=said):
      data.glyphs(**options)


def test_glyph_polarity_decides_whether_the_character_may_be_darker_than_its_background():
  both, light = (
    data.glyphs(num_examples=62, split="train", **options).pixels @ np.array([0.299, 0.587, 0.114])
    for options in ({}, {"polarity": "light_on_dark"})
  )
  # The same shape at the same place: where the pictures differ, ink and paper have changed places.
  border = np.ones((32, 32), bool)
  border[2:-2, 2:-2] = False
  swapped = (both != light).any((1, 2))
  assert 15 < swapped.sum() < 47
  assert (both[swapped][:, border].mean(1) > light[swapped][:, border].mean(1)).all()
  assert (both[swapped][:, 8:24, 8:24].min((1, 2)) < light[swapped][:, 8:24, 8:24].max((1, 2))).all()
  # Of light characters the brightest pixels are inside, and nothing inside is far darker than the border.
  inside = light[:, 4:-4, 4:-4].reshape(62, -1)
  assert (np.sort(inside)[:, -20:].mean(1) > light[:, border].mean(1) + 40).all()
  refused(lambda: data.glyphs(num_examples=1, split="train", polarity="dark"), "no polarity 'dark'")


def test_glyph_fonts_draw_letters_as_themselves():
  names = {path.stem for path in glyphs.fonts()}
  assert {"DejaVuSans", "STIXGeneral", "cmr10"} <= names
  # Symbols, extensible brackets and a font of placeholders, all with something at the codes of letters.
  assert not names & {"cmsy10", "cmex10", "LastResortHE-Regular", "STIXNonUni"}


def test_digits_are_split_once_and_for_all():
  train, test = data.digits(split="train"), data.digits(split="test")
  assert len(train) + len(test) == 1797
  assert abs(len(train) - 1000) < 10
  assert train.images.shape[1:] == (32, 32, 3)
  assert np.bincount(test.labels).min() > 70
  assert data.digits(split="train", seed=1).fingerprint() != train.fingerprint()
  with pytest.raises(DataError, match="'train' or 'test'"):
    data.digits(split="val")


@pytest.mark.parametrize(
  ("name", "file"), [("photo_patches", "brick.png"), ("scene_patches", "astronaut.png")]
)
def test_patches_of_the_two_splits_come_from_different_halves(name, file):
  patches = getattr(data, name)
  train, test = (patches(split=split, num_per_class=20) for split in ("train", "test"))
  assert len(train) == 20 * len(train.classes)
  halves = [bundled._half(name, file, split) for split in ("train", "test")]
  for source, half in zip((train, test), halves, strict=True):
    windows = np.lib.stride_tricks.sliding_window_view(half[..., 0], (32, 32))
    patch = source.pixels[0][..., 0]
    assert (windows[:, :, 0, 0] == patch[0, 0])[(windows == patch).all((2, 3))].any()
  assert halves[0].shape[1] + halves[1].shape[1] == 512
  assert patches(split="test", num_per_class=2, size=48).pixels.shape[1:] == (48, 48, 3)
  assert patches(split="test", num_per_class=20, seed=1).fingerprint() != test.fingerprint()
  with pytest.raises(DataError, match=f"{name} size is 500; expected 1 to 128"):
    patches(split="test", size=500)


def test_shared_sets_have_the_sizes_of_their_readme(shared_data):
  open_ = lambda path, **options: data.from_parquet(path=path, data_dir=shared_data, **options)  # noqa: E731
  fine = open_("grocery/val.parquet")
  coarse = open_("grocery/val.parquet", label_column="coarse_label", classes="coarse_classes.json")
  assert (len(fine), len(fine.classes), len(coarse.classes)) == (296, 81, 43)
  sheets = lambda folder, split: data.from_sheets(folder=folder, split=split, data_dir=shared_data)  # noqa: E731
  assert [len(sheets("cifar10", split)) for split in ("train", "test")] == [50_000, 1_000]
  assert [len(sheets("gtsrb32", split)) for split in ("train", "test")] == [2614, 2000]
  assert [len(sheets("flowers5_32", split)) for split in ("train", "test")] == [3311, 1000]
  google = sheets("emoji32", "google_noto")
  assert (len(google), google.pixels.shape) == (1906, (1906, 32, 32, 3))
  assert sheets("cifar10", "test").pixels.shape == (1000, 32, 32, 3)
  mnist = data.from_npz(path="mnist/mnist_12k_2k.npz", split="test", data_dir=shared_data)
  assert mnist.pixels.shape == (2000, 28, 28, 3)


def test_importing_the_package_imports_no_reader_of_a_single_source():
  # Everything that TensorFlow itself imports does not count.
  code = (
    "import sys, jaxtl.data; "
    "print([name for name in ('tensorflow_datasets', 'pyarrow', 'skimage') if name in sys.modules])"
  )
  result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert result.stdout.strip() == "[]"


def test_a_subset_has_exactly_as_many_drawn_evenly_over_the_classes():
  labels = np.repeat([0, 1, 2], [10, 3, 7])
  source = data.from_arrays(images=np.zeros((20, 4, 4, 3), np.uint8), labels=labels, classes=list("abc"))
  for count in (1, 3, 8, 12, 20, 99):
    found = data.subset(source=source, num_examples=count, seed=0)
    assert len(found) == min(count, 20)
    counts = np.bincount(found.labels, minlength=3)
    turns = next(t for t in range(11) if np.minimum([10, 3, 7], t).sum() >= len(found))
    assert (counts <= np.minimum([10, 3, 7], turns)).all()
  first, again, other = (data.subset(source=source, num_examples=6, seed=s).name for s in (0, 0, 1))
  assert first == again == other
  with pytest.raises(DataError, match="num_examples is 0"):
    data.subset(source=source, num_examples=0)
