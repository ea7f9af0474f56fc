"""`jaxtl predict` as a user types it: its outputs, every option, and one line for what is wrong."""

import csv
import json
import os

import numpy as np
import pytest
from PIL import Image

import jaxtl
from jaxtl import cli
from tests.data.made_images import encoded, smooth_image
from tests.inference.saved import CLASSES, NORMALIZE, PHOTO, save


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  return save(tmp_path_factory.mktemp("weights") / "weights")


@pytest.fixture
def photos(tmp_path):
  """Three photos of several formats at two depths."""
  folder = tmp_path / "photos"
  (folder / "deep").mkdir(parents=True)
  for number, (name, kind) in enumerate({"a.jpg": "JPEG", "b.png": "PNG", "deep/c.webp": "WEBP"}.items()):
    (folder / name).write_bytes(encoded(smooth_image(30, 40 + number, seed=number), kind))
  return folder


def run(*arguments, code=0):
  assert cli.main(["predict", *map(str, arguments)]) == code


def refused(capsys, *arguments, code=2):
  """The one line that it prints before it gives up."""
  run(*arguments, code=code)
  error = capsys.readouterr().err
  lines = [line for line in error.splitlines() if line.startswith("jaxtl: ")]
  assert len(lines) == 1, error
  assert "Traceback" not in error
  return lines[0]


def table(file):
  rows = csv.DictReader(file.open(encoding="utf-8"))
  return [(row["file"], int(row["rank"]), row["class"], float(row["probability"])) for row in rows]


def test_it_prints_and_writes_what_python_predicts(weights, photos, tmp_path, capsys):
  names = ["a.jpg", "b.png", "deep/c.webp"]
  expected = [
    (str(photos / name), rank, label, probability)
    for name, each in zip(names, jaxtl.load(weights).predict(photos))
    for rank, (label, probability) in enumerate(each.top(2), start=1)
  ]
  outputs = ("--json", tmp_path / "p.json", "--csv", tmp_path / "p.csv", "--out", tmp_path / "out")
  run(weights, photos, "--top", 2, *outputs)
  assert table(tmp_path / "p.csv") == expected
  printed = capsys.readouterr().out
  assert [line for line in printed.splitlines() if "photos" in line] == [str(photos / name) for name in names]
  for _, _, label, probability in expected:
    assert any(line.split() == [label, f"{probability:.1%}"] for line in printed.splitlines())
  about = json.loads((tmp_path / "p.json").read_text())
  found = [
    (image["file"], rank, each["class"], each["probability"])
    for image in about["images"]
    for rank, each in enumerate(image["predictions"], start=1)
  ]
  assert found == expected
  assert about["unreadable"] == []
  out = tmp_path / "out"
  assert sorted(path.name for path in out.iterdir()) == ["index.html", "predictions.csv", "predictions.json"]
  assert (out / "predictions.csv").read_text() == (tmp_path / "p.csv").read_text()
  assert (out / "predictions.json").read_text() == (tmp_path / "p.json").read_text()
  assert (out / "index.html").read_text().count("<img") == 3
  for name in ("p.json", "p.csv"):
    assert f"wrote {tmp_path / name}" in printed
  assert f"page: {out / 'index.html'}" in printed


def test_top_is_how_many_classes_there_are(weights, photos, tmp_path):
  for top, expected in (((), 5), (("--top", 1), 1), (("--top", 100), len(CLASSES))):
    file = tmp_path / f"{expected}.csv"
    run(weights, photos / "a.jpg", "--csv", file, *top)
    assert [rank for _, rank, _, _ in table(file)] == list(range(1, expected + 1))


def test_files_and_folders_are_taken_in_the_order_given(weights, photos, tmp_path):
  run(weights, photos / "deep", photos / "a.jpg", "--top", 1, "--csv", tmp_path / "p.csv")
  assert [name for name, *_ in table(tmp_path / "p.csv")] == [
    str(photos / "deep" / "c.webp"),
    str(photos / "a.jpg"),
  ]


def test_the_batch_size_is_the_most_images_per_call(weights, photos, tmp_path, monkeypatch):
  seen = []
  original = jaxtl.inference.Loaded._compute

  def compute(self, images, size, names):
    seen.append((len(images), size))
    return original(self, images, size, names)

  monkeypatch.setattr(jaxtl.inference.Loaded, "_compute", compute)
  for number, options in enumerate([(), ("--batch-size", 2)]):
    run(weights, photos, *options, "--csv", tmp_path / f"{number}.csv")
  assert seen == [(3, 4), (2, 2), (1, 2)]
  first, second = (table(tmp_path / f"{number}.csv") for number in range(2))
  assert [row[:3] for row in first] == [row[:3] for row in second]
  np.testing.assert_allclose([row[3] for row in first], [row[3] for row in second], rtol=1e-4)


@pytest.mark.parametrize(
  "options",
  [
    ("--image-size", 24),
    ("--crop-fraction", "none"),
    ("--interpolation", "bicubic"),
    ("--mean", "0.1,0.2,0.3"),
    ("--std", "0.1,0.2,0.3"),
  ],
)
def test_preprocessing_is_the_checkpoint_s_unless_told_otherwise(weights, photos, tmp_path, options):
  run(weights, photos / "a.jpg", "--csv", tmp_path / "own.csv")
  run(weights, photos / "a.jpg", "--csv", tmp_path / "other.csv", *options)
  own, other = (dict(row[2:] for row in table(tmp_path / name)) for name in ("own.csv", "other.csv"))
  assert own != other


def test_photos_are_turned_unless_told_otherwise(weights, tmp_path):
  upright = smooth_image(30, 40)
  tags = Image.Exif()
  tags[0x0112] = 6
  # Orientation 6: the first stored row is the right side, from the top.
  stored = upright.transpose(1, 0, 2)[::-1]
  (tmp_path / "upright.png").write_bytes(encoded(upright, "PNG"))
  (tmp_path / "turned.png").write_bytes(encoded(stored, "PNG", exif=tags.tobytes()))
  found = []
  for number, arguments in enumerate(
    [("upright.png",), ("turned.png",), ("turned.png", "--orientation", "stored")]
  ):
    run(weights, tmp_path / arguments[0], *arguments[1:], "--csv", tmp_path / f"{number}.csv")
    found.append(dict(row[2:] for row in table(tmp_path / f"{number}.csv")))
  assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("mode", ["L", "I;16", "CMYK", "RGBA", "P", "1", "F"])
def test_every_kind_of_pixels_is_predicted(weights, tmp_path, mode):
  kind = {"CMYK": "JPEG", "F": "TIFF"}.get(mode, "PNG")
  if mode == "I;16":
    image = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50)
  else:
    image = Image.fromarray(smooth_image(30, 40)).convert(mode)
  path = tmp_path / "image"
  path.write_bytes(encoded(image, kind))
  run(weights, path, "--csv", tmp_path / "p.csv")
  assert len(table(tmp_path / "p.csv")) == 5


def test_damaged_images_are_skipped_within_the_budget(weights, photos, tmp_path, capsys):
  (photos / "b.png").write_bytes((photos / "b.png").read_bytes()[:90])
  (photos / "empty.jpg").write_bytes(b"")
  arguments = (weights, photos, "--json", tmp_path / "p.json")
  assert "1 unreadable image, 0 allowed" in refused(capsys, *arguments, code=3)
  assert "2 unreadable images, 1 allowed" in refused(capsys, *arguments, "--max-bad-records", 1, code=3)
  assert not (tmp_path / "p.json").exists()
  run(*arguments, "--max-bad-records", 2, "--out", tmp_path / "out")
  said = capsys.readouterr().err
  assert f"{photos / 'b.png'} cannot be read: truncated or damaged PNG of 90 bytes" in said
  assert f"{photos / 'empty.jpg'} cannot be read: it is empty" in said
  about = json.loads((tmp_path / "p.json").read_text())
  assert [image["file"] for image in about["images"]] == [str(photos / "a.jpg"), str(photos / "deep/c.webp")]
  assert len(about["unreadable"]) == 2
  assert "2 images could not be read and are left out." in (tmp_path / "out" / "index.html").read_text()


def test_nothing_but_damaged_images_is_an_error(weights, tmp_path, capsys):
  (tmp_path / "a.jpg").write_bytes(b"text")
  line = refused(capsys, weights, tmp_path / "a.jpg", "--max-bad-records", 5, code=3)
  assert "no image can be read" in line


def test_wrong_inputs_are_refused_in_one_line(weights, photos, tmp_path, capsys):
  (tmp_path / "empty").mkdir()
  tower = save(tmp_path / "tower", classes=())
  pixels = save(tmp_path / "pixels", transforms=[NORMALIZE])
  photo = photos / "a.jpg"
  cases = [
    (2, "no checkpoint at", (tmp_path / "nothing", photo)),
    (2, "no checkpoint at", (photos, photo)),
    (3, "no image at", (weights, photos / "nothing.jpg")),
    (3, "no image in the folder", (weights, tmp_path / "empty")),
    (2, "has no classifier; transfer it", (tower, photo)),
    (3, "30 x 40 pixels, and the checkpoint's preprocessing does not resize", (pixels, photo)),
    (2, "crop_fraction is 2.0", (weights, photo, "--crop-fraction", 2)),
  ]
  for code, said, arguments in cases:
    assert said in refused(capsys, *arguments, "--out", tmp_path / "out", code=code)
    assert not (tmp_path / "out").exists()
  run(pixels, photo, "--image-size", 16)


def test_a_damaged_checkpoint_is_named_with_the_code_of_storage(photos, tmp_path, capsys):
  folder = save(tmp_path / "damaged")
  file = max((folder / "checkpoints" / "0").rglob("d/*"), key=lambda path: path.stat().st_size)
  file.write_bytes(file.read_bytes()[:-1] + b"\0\0")
  assert "damaged" in refused(capsys, folder, photos, code=5)


def test_outputs_that_exist_or_cannot_be_written_are_refused_before_any_work(
  weights, photos, tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr("jaxtl.cli.predict.load", None)  # would fail
  there = tmp_path / "there"
  there.write_text("kept")
  for option in ("--json", "--csv"):
    assert f"{there} exists already" in refused(capsys, weights, photos, option, there)
    line = refused(capsys, weights, photos, option, there / "below")
    assert f"cannot write to {there / 'below'}: {there} is a file" in line
    assert f"{photos} exists already" in refused(capsys, weights, photos, option, photos)
  assert "is not empty" in refused(capsys, weights, photos, "--out", photos)
  assert "is a file" in refused(capsys, weights, photos, "--out", there / "out")
  same = ("--json", tmp_path / "p", "--csv", tmp_path / "p")
  assert "give two files" in refused(capsys, weights, photos, *same)
  assert there.read_text() == "kept"


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may write everywhere")
def test_a_folder_without_permission_is_refused(weights, photos, tmp_path, capsys):
  (tmp_path / "closed").mkdir(mode=0o500)
  line = refused(capsys, weights, photos, "--json", tmp_path / "closed" / "p.json")
  assert "is not writable" in line


def test_a_disk_that_fails_is_a_storage_error(weights, photos, tmp_path, capsys, monkeypatch):
  def fail(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr("jaxtl.cli.predict.write_atomically", fail)
  line = refused(capsys, weights, photos, "--json", tmp_path / "p.json", code=5)
  assert "cannot write to" in line


@pytest.mark.parametrize("option", ["--top", "--batch-size"])
def test_numbers_are_positive(weights, photos, capsys, option):
  with pytest.raises(SystemExit) as stop:
    run(weights, photos, option, 0)
  assert stop.value.code == 2
  assert "expected a positive integer, got '0'" in capsys.readouterr().err


def test_names_outside_the_library_need_trust(photos, tmp_path, capsys):
  transforms = [*PHOTO[:2], dict(fn="tests.cli.test_predict.halved")]
  foreign = save(tmp_path / "foreign", transforms=transforms)
  assert "tests.cli.test_predict" in refused(capsys, foreign, photos)
  run(foreign, photos, "--trust", "--csv", tmp_path / "p.csv")
  assert len(table(tmp_path / "p.csv")) == 15


def halved(example):
  """A transform of somebody else."""
  return {**example, "image": example["image"] / 2}


def test_a_long_list_shows_its_progress(weights, photos, monkeypatch, capsys):
  monkeypatch.setattr("jaxtl.cli.predict._EVERY", 1)
  ticks = iter(range(0, 1000, 2))
  monkeypatch.setattr("jaxtl.cli.predict.time.perf_counter", lambda: next(ticks))
  run(weights, photos)
  assert "predict | image 1 of 3" in capsys.readouterr().err
