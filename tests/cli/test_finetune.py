"""`jaxtl finetune`: what is held out, the config that it writes, and what it says at the end."""

import json
import runpy
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

from jaxtl import cli, data
from jaxtl.checkpoints import checkpoint
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.cli import finetune
from jaxtl.config import spec
from jaxtl.errors import DataError, InputError
from jaxtl.pretrained import exporting, guessing
from jaxtl.studies.transfer import recipe
from tests.small_study import checkpointed, trained_once

__all__ = ["checkpointed", "trained_once"]  # fixtures


def draw(folder, counts, *, seed=0):
  """Writes class folders of 8 x 8 noise whose colour channel tells the class: class -> number of images."""
  rng = np.random.default_rng(seed)
  for channel, (name, count) in enumerate(counts.items()):
    (folder / name).mkdir(parents=True)
    for number in range(count):
      pixels = rng.integers(0, 120, (8, 8, 3))
      pixels[:, :, channel] += 100
      Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number:03}.png")
  return folder


def opened(sources):
  """Opens the parts; returns part -> set of their images' bytes."""
  return {
    part: {bytes(image) for image in _images(spec(source, at=part).realize(data_dir=None))}
    for part, source in sources.items()
  }


def _images(source):
  return [source.read(index).tobytes() for index in range(len(source))]


def parts(text, val=None):
  return finetune.held_out_parts(str(text), val=val, columns={}, data_dir=None)


def test_one_folder_is_split_in_three_without_overlap(tmp_path):
  folder = draw(tmp_path / "photos", dict(cat=40, dog=20))
  sources, notes = parts(folder)
  found = opened(sources)
  # A fifth of each class is for the test, and 15 % of the rest chooses.
  assert {part: len(images) for part, images in found.items()} == {"train": 41, "validation": 7, "test": 12}
  assert len(set.union(*found.values())) == 60
  assert len(notes) == 2
  assert parts(folder) == (sources, notes)
  other = opened(parts(folder, val="0.5")[0])
  assert len(other["validation"]) == 24
  assert other["test"] == found["test"]


@pytest.mark.parametrize(
  ("splits", "val", "expected"),
  [
    (("train", "val", "test"), None, ("train", "val", "test")),
    (("train", "test"), None, (None, None, "test")),
    # The only other split is what is reported, and something else chooses.
    (("train", "valid"), None, (None, None, "valid")),
    (("train", "valid"), "valid", (None, "valid", None)),
    (("train", "val", "test"), "0.3", (None, None, "test")),
    (("train", "val", "test"), "test", ("train", "test", "val")),
  ],
)
def test_splits_are_used_as_they_are(tmp_path, splits, val, expected):
  for number, split in enumerate(splits):
    draw(tmp_path / "photos" / split, dict(cat=10, dog=10), seed=number)
  sources, _ = parts(tmp_path / "photos", val)
  for part, split in zip(("train", "validation", "test"), expected, strict=True):
    source = sources[part]
    assert (source["split"] if source["make"] == ".data.from_name" else None) == split
    if split is None:
      assert source["source"]["split"] == "train"
  found = opened(sources)
  assert sum(map(len, found.values())) == len(set.union(*found.values()))


def test_a_probe_alone_trains_on_what_it_does_not_need_to_choose(tmp_path):
  for number, split in enumerate(("train", "val", "test")):
    draw(tmp_path / "photos" / split, dict(cat=10, dog=10), seed=number)
  folder = tmp_path / "photos"

  def sizes(folder, val):
    sources, _ = finetune.held_out_parts(str(folder), val=val, columns={}, data_dir=None, chooses=False)
    return {part: len(images) for part, images in opened(sources).items()}

  assert sizes(folder, None) == {"train": 20, "test": 20}
  assert sizes(folder / "train", None) == {"train": 16, "test": 4}
  # As with a fine-tuning, to compare with it.
  assert sizes(folder / "train", "0.5") == {"train": 8, "validation": 8, "test": 4}


def test_a_test_image_that_is_a_training_image_is_told(tmp_path):
  for number, split in enumerate(("train", "test")):
    draw(tmp_path / "photos" / split, dict(cat=10, dog=10), seed=number)
  assert len(parts(tmp_path / "photos")[1]) == 1
  for number in (3, 4):
    copied = (tmp_path / "photos" / "train" / "cat" / f"00{number}.png").read_bytes()
    (tmp_path / "photos" / "test" / "cat" / f"{number}_copy.png").write_bytes(copied)
  note = parts(tmp_path / "photos")[1][-1]
  assert note.startswith("2 of 22 test images are also among those of train and validation")
  assert "_copy.png" in note


def test_another_file_of_the_same_name_is_not_taken_for_the_first(tmp_path, monkeypatch):
  imported = []

  def import_backbone(path, **_):
    imported.append(path)
    if "bad" in str(path):
      raise InputError("does not fit")
    source = dict(file=path.name, sha256=path.read_text(), layout="jaxtl")
    about = dict(model=dict(make=".models.resnet8"), classes=(), image_shape=[8, 8, 3], source=source)
    weights = Weights({"w": np.ones(3, np.float32)}, {}, about, str(path))
    return types.SimpleNamespace(weights=weights, model=types.SimpleNamespace(name="resnet8"))

  monkeypatch.setattr(guessing, "import_backbone", import_backbone)
  files = {name: tmp_path / name / "resnet8.npz" for name in ("one", "other", "bad")}
  for name, file in files.items():
    file.parent.mkdir()
    file.write_text(name)

  def starts(*names):
    return finetune._starts([files[name] for name in names], tmp_path / "run", model=None, layout=None)

  first = starts("one")
  assert starts("one") == first
  with pytest.raises(InputError, match=r"resnet8 is not .*other/resnet8\.npz: source\.sha256"):
    starts("other")


def test_a_start_that_fails_does_not_occupy_the_folder(tmp_path, checkpointed, monkeypatch, capsys):
  (tmp_path / "run" / "weights" / "one").mkdir(parents=True)
  written(tmp_path, checkpointed, monkeypatch, [])
  capsys.readouterr()


@pytest.mark.parametrize("cropped", [True, False])
def test_rand_augment_adds_to_the_standard_augmentation(cropped):
  own = data.Preprocessing(size=16, crop_fraction=0.5 if cropped else None, interpolation="bicubic").specs()
  found = recipe._augmented(own, "rand_augment")
  first = dict(fn=".data.random_resized_crop", size=16, interpolation="bicubic") if cropped else own[0]
  assert found == [first, dict(fn=".data.flip_left_right"), dict(fn=".data.rand_augment"), own[-1]]


def test_devices_and_processes_come_before_the_weights_are_read(tmp_path, checkpointed, monkeypatch):
  order = []
  monkeypatch.setattr(finetune.run_command, "make_runtime", lambda options: order.append("devices"))
  for name in ("open_source", "shared_images"):
    monkeypatch.setattr(data, name, note_call(order, name, getattr(data, name)))
  monkeypatch.setattr(checkpoint, "load", note_call(order, "load", checkpoint.load))
  written(tmp_path, checkpointed, monkeypatch, ["--image-size", "8"])
  assert order[0] == "devices"
  assert {"open_source", "load"} <= set(order)


def note_call(order, name, function):
  def noted(*given, **options):
    order.append(name)
    return function(*given, **options)

  return noted


def test_a_command_that_is_not_text_is_written_escaped(tmp_path):
  text = finetune._text(dict(title="x"), ["finetune", "/a/\udcff"])
  assert r"/a/" in text
  text.encode()


def test_too_few_images_and_unknown_splits_are_one_line(tmp_path):
  folder = draw(tmp_path / "photos", dict(cat=40, dog=2))
  few = r"the class dog has 2 images, too few to hold out (test|validation) images"
  with pytest.raises(DataError, match=few):
    parts(folder)
  with pytest.raises(
    InputError, match=r"--val is 'vali'; expected a share between 0 and 1, or another split"
  ):
    parts(folder, "vali")
  with pytest.raises(InputError, match=r"--val is '1\.5'"):
    parts(folder, "1.5")
  with pytest.raises(DataError, match="there is no"):
    parts(tmp_path / "none")
  one = draw(tmp_path / "one", dict(cat=5))
  with pytest.raises(DataError, match="single class"):
    parts(one)
  (tmp_path / "empty").mkdir()
  with pytest.raises(DataError):
    parts(tmp_path / "empty")


plain = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
  lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
  max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(plain, st.integers(0, 8))
def test_the_code_of_a_config_means_the_config(value, indent):
  assert eval(finetune.code(value, indent=indent)) == value


def test_names_are_the_shortest_ends_that_differ(tmp_path):
  paths = [tmp_path / "runs" / study / arm / "0" for study in "ab" for arm in ("sam", "plain")]
  assert finetune.distinct_names(paths, option="--start") == ["a_sam_0", "a_plain_0", "b_sam_0", "b_plain_0"]
  assert finetune.distinct_names(paths[:2], option="--start") == ["sam_0", "plain_0"]
  assert finetune.distinct_names([tmp_path / "0"], option="--start")[0].endswith("_0")
  with pytest.raises(InputError, match="the same weight twice"):
    finetune.distinct_names([tmp_path / "a", tmp_path / "b" / ".." / "a"], option="--start")


@pytest.mark.parametrize(
  ("name", "model"),
  [
    ("resnet50-11ad3fa6.pth", "resnet50"),
    ("resnet101.safetensors", "resnet101"),
    ("imagenet_efficientnet_lite0_fp16.npz", "efficientnet_lite0"),
    ("vit_b_16-c867db91.pth", "vit_b16"),
    ("vit_b16/model.safetensors", "vit_b16"),
  ],
)
def test_a_file_name_tells_its_model(tmp_path, name, model):
  assert guessing.model_in_name(tmp_path / name) == model


def test_a_name_without_a_model_asks_for_one(tmp_path):
  with pytest.raises(InputError, match=r"contains no architecture; give --as MODEL"):
    guessing.model_in_name(tmp_path / "weights.npz")
  with pytest.raises(InputError, match="no weight at"):
    guessing.import_backbone(tmp_path / "resnet18.npz")
  save_file({"a": np.ones(3, np.float32)}, tmp_path / "resnet18.safetensors")
  with pytest.raises(InputError, match=r"does not fit resnet18 in any layout that has it: .*torchvision"):
    guessing.import_backbone(tmp_path / "resnet18.safetensors")
  with pytest.raises(InputError, match="no layout 'torch'"):
    guessing.import_backbone(tmp_path / "resnet18.safetensors", layout="torch")


@pytest.mark.slow
def test_a_folder_and_two_weights_one_of_another_library(tmp_path, checkpointed, capsys):
  start, trained = checkpointed
  photos = draw(tmp_path / "photos", dict(cat=40, dog=40))
  exporting.export(trained.weights, tmp_path / "resnet8", format="safetensors", trust=True)
  [file] = (tmp_path / "resnet8").glob("*.safetensors")
  arguments = [
    *(
      "finetune",
      str(photos),
      "--start",
      start,
      str(file),
      "--as",
      "resnet8",
      "--out",
      str(tmp_path / "run"),
    ),
    *("--epochs", "2", "--rates", "1e-3,1e-2", "--num-devices", "1", "--batch-size", "16"),
  ]
  assert cli.main(arguments) == 0
  out = capsys.readouterr().out
  assert "imported" in out
  assert "by the layout jaxtl" in out
  table = out[out.index("weight ") :].splitlines()
  assert len([line for line in table if "fine-tuning" in line and "rate 0.0" in line]) >= 2
  assert "Take " in out
  # The same files again: nothing is trained, and the table is the same.
  assert cli.main(arguments) == 0
  again = capsys.readouterr().out
  assert again[again.index("weight ") :] == out[out.index("weight ") :]
  # The config runs to the same rows.
  other = ["run", str(tmp_path / "run" / "config.py"), "--workdir", str(tmp_path / "other"), "--no-report"]
  assert cli.main([*other, "--num-devices", "1"]) == 0
  rows = [
    [json.loads(line) for line in (tmp_path / run / "start" / "0" / "rows.jsonl").read_text().splitlines()]
    for run in ("run", "other")
  ]
  volatile = ("seconds", "session", "digest")  # the digest covers the seconds
  first, second = ([{k: v for k, v in row.items() if k not in volatile} for row in one] for one in rows)
  assert first == second
  # What was chosen is a checkpoint.
  tuned = checkpoint.load(tmp_path / "run" / "start" / "0" / "transfer" / "photos" / "fine_tune")
  assert tuned.classes == ("cat", "dog")
  # Other choices in the same folder are refused, and nothing is lost.
  assert cli.main([*arguments[:-1], "8"]) == 2
  assert "give another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("changed", "path", "expected"),
  [
    (["--epochs", "3"], ("fine_tune", "epochs"), 3.0),
    (["--steps", "7"], ("fine_tune", "steps"), 7),
    (["--rates", "0.5"], ("fine_tune", "peak_rates"), [0.5]),
    (["--batch-size", "8"], ("targets", "photos", "train", "batch_size"), 8),
    (["--val", "0.4"], ("targets", "photos", "train", "source", "stop"), 0.48),
    (["--max-bad-records", "3"], ("targets", "photos", "train", "max_bad_records"), 3),
    (["--max-bad-records", "3"], ("targets", "photos", "test", "max_bad_records"), 3),
    (["--probe-only"], ("fine_tune",), None),
  ],
)
def test_every_option_reaches_the_config(tmp_path, checkpointed, monkeypatch, changed, path, expected):
  config = written(tmp_path, checkpointed, monkeypatch, changed)
  node = config["base"]["transfer"]
  for key in path:
    node = node.get(key)
  assert node == expected


def written(tmp_path, checkpointed, monkeypatch, changed):
  """The config that a command writes, without running it."""
  monkeypatch.setattr(finetune.run_command, "run", lambda options, runtime: None)
  monkeypatch.setattr(finetune, "summary", lambda out: "")
  photos = draw(tmp_path / "photos", dict(cat=20, dog=20))
  out = tmp_path / "run"
  assert cli.main(["finetune", str(photos), "--start", checkpointed[0], "--out", str(out), *changed]) == 0
  return runpy.run_path(str(out / "config.py"))["get_config"]()


@pytest.mark.parametrize(
  ("length", "warmup"),
  [
    (dict(), 1.0),
    (dict(epochs=3.0), 1.0),
    (dict(epochs=1.0), None),
    (dict(epochs=0.5), None),
    (dict(steps=7), None),
  ],
)
def test_a_short_run_has_no_warm_up_that_does_not_fit(length, warmup):
  found = recipe._fine_tune(recipe.Choices(**length))
  assert found["optimizer"]["schedule"].get("warmup_epochs") == warmup


def test_seeds_sizes_and_augmentations_reach_the_config(tmp_path, checkpointed, monkeypatch):
  changed = ["--seeds", "3", "--image-size", "16", "--augment", "flip"]
  config = written(tmp_path, checkpointed, monkeypatch, changed)
  assert config["seeds"] == [0, 1, 2]
  [arm] = config["arms"].values()
  target = arm["transfer"]["targets"]["photos"]
  assert target["test"]["transforms"][0]["size"] == [16, 16]
  assert [one["fn"] for one in target["train"]["transforms"]] == [
    ".data.resize",
    ".data.flip_left_right",
    ".data.normalize",
  ]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--start", "{tmp}/none"], "no weight at"),
    (["--start", "{start}", "{start}"], "the same weight twice"),
    (["--start", "{start}", "--rates", "0"], "expected different rates above 0"),
    (["--start", "{start}", "--epochs", "0"], "expected a number above 0"),
    (["--start", "{start}", "--epochs", "1", "--steps", "2"], "not allowed with"),
    (["--start", "{start}", "--augment", "mixup"], "invalid choice"),
    (["--start", "{start}", "--out", "{tmp}/photos"], "holds other files"),
  ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, checkpointed, capsys, arguments, message):
  photos = draw(tmp_path / "photos", dict(cat=20, dog=20))
  before = sorted(tmp_path.rglob("*"))
  filled = [text.format(tmp=tmp_path, start=checkpointed[0]) for text in arguments]
  out = [] if "--out" in filled else ["--out", str(tmp_path / "run")]
  try:
    code = cli.main(["finetune", str(photos), *filled, *out])
  except SystemExit as stopped:
    code = stopped.code
  assert code == 2
  error = capsys.readouterr().err
  assert message in error
  assert sorted(tmp_path.rglob("*")) == before


def test_grey_and_damaged_images_follow_the_rules_of_every_run(tmp_path):
  folder = draw(tmp_path / "photos", dict(cat=12, dog=12))
  Image.new("L", (8, 8), 100).save(folder / "cat" / "000.png")
  sources, _ = parts(folder)
  assert all(len(images) for images in opened(sources).values())
  assert data.from_folder(folder=str(folder)).read(0).shape == (8, 8, 3)
