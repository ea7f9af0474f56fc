"""`jaxtl eval`: its files, its numbers against its own predictions, and every option."""

import csv
import json

import jax
import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from jaxtl import cli, models
from jaxtl.checkpoints import checkpoint
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.train.step import shapes_of

pytestmark = pytest.mark.slow

CLASSES = ("red", "green", "blue")
TASK = dict(make=".tasks.classification", loss=dict(fn=".losses.softmax_cross_entropy", label_smoothing=0.1))
NORMALIZE = dict(fn=".data.normalize", mean=[0.0] * 3, std=[1.0] * 3)
PLAIN = [dict(fn=".data.resize", size=[16, 16]), NORMALIZE]


def save(folder, *, classes=CLASSES, transforms=PLAIN, size=16):
  """A small transformer with random weights: a model that can refuse another size."""
  keywords = dict(patch_size=8, image_size=size, width=6, depth=1, num_heads=1)
  made = models.vit_ti16(num_classes=len(classes), **keywords)
  rng = np.random.default_rng(0)

  shapes = shapes_of(made, (size, size, 3))
  tree = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32) / 3, shapes)
  config = dict(model=dict(make=".models.vit_ti16", **keywords), task=TASK, transforms=transforms)
  config |= dict(classes=list(classes), image_shape=[size, size, 3])
  checkpoint.save_weights(Weights(tree["params"], {}, config, "memory"), folder)
  return folder


@pytest.fixture
def weights(tmp_path):
  return save(tmp_path / "weights")


@pytest.fixture
def folder(tmp_path):
  """Nine images of three classes, of 20 x 24 pixels."""
  rng = np.random.default_rng(0)
  for number, name in enumerate(CLASSES):
    (tmp_path / "images" / name).mkdir(parents=True)
    for image in range(3):
      pixels = rng.integers(0, 120, (20, 24, 3)).astype(np.uint8)
      pixels[..., number] += 100
      Image.fromarray(pixels).save(tmp_path / "images" / name / f"{image}.png")
  (tmp_path / "images" / "classes.json").write_text(json.dumps(CLASSES))
  return tmp_path / "images"


def run(weights, folder, *more, code=0):
  arguments = ["eval", weights, "--data", folder, "--batch-size", 4, "--num-devices", 1, *more]
  assert cli.main([str(a) for a in arguments]) == code


def scores(out):
  return json.loads((out / "scores.json").read_text())


def rows(file):
  return list(csv.DictReader(file.open()))


def test_the_folder_holds_numbers_tables_pictures_and_a_page(weights, folder, tmp_path, capsys):
  out = tmp_path / "out"
  run(weights, folder, "--out", out)
  files = {"scores.json", "per_class.csv", "confusion.csv", "predictions.csv"}
  files |= {"confusion.png", "reliability.png", "worst_classes.png", "index.html"}
  assert {path.name for path in out.iterdir()} == files
  predictions = rows(out / "predictions.csv")
  assert [row["file"] for row in predictions][:2] == ["blue/0.png", "blue/1.png"]
  right = np.array([row["label"] == row["predicted"] for row in predictions])
  found = scores(out)
  assert found["num_examples"] == len(predictions) == 9
  np.testing.assert_allclose(found["top1"], right.mean())
  by_class = rows(out / "per_class.csv")
  np.testing.assert_allclose(found["balanced_accuracy"], np.mean([float(row["top1"]) for row in by_class]))
  confusion = np.array([[int(row[name]) for name in CLASSES] for row in rows(out / "confusion.csv")])
  assert np.trace(confusion) == right.sum()
  assert confusion.sum() == 9
  # Label smoothing makes the training loss another number than the cross-entropy.
  assert found["loss"] != found["cross_entropy"]
  np.testing.assert_allclose(found["loss"], np.mean([float(row["loss"]) for row in predictions]), rtol=1e-5)
  assert found["images_per_second"] > 0
  printed = capsys.readouterr().out
  assert f"{found['ece']:.4f}" in printed
  assert str(out / "index.html") in printed
  for path in out.glob("*.png"):
    assert np.ptp(np.asarray(Image.open(path).convert("L"))) > 50, path
  text = (out / "index.html").read_text()
  assert "<script" not in text
  assert "http" not in text.replace("http://www.w3.org", "")


def test_a_folder_that_exists_is_refused_before_any_work(weights, folder, tmp_path, capsys):
  run(weights, folder, "--out", tmp_path / "images", code=2)
  assert "images" in capsys.readouterr().err
  assert not (folder / "scores.json").exists()


@pytest.mark.parametrize(
  ("option", "value", "said"),
  [
    ("--image-size", "24", "size=[24, 24]"),
    ("--crop-fraction", "0.8", "center_crop(size=16)"),
    ("--interpolation", "bicubic", "interpolation=bicubic"),
    ("--mean", "0.5,0.4,0.3", "mean=[0.5, 0.4, 0.3]"),
    ("--std", "0.5,0.4,0.3", "std=[0.5, 0.4, 0.3]"),
  ],
)
def test_preprocessing_is_the_weight_s_unless_told_otherwise(
  weights, folder, tmp_path, capsys, option, value, said
):
  run(weights, folder, "--out", tmp_path / "plain")
  assert said not in capsys.readouterr().out
  run(weights, folder, "--out", tmp_path / "changed", option, value)
  assert said in capsys.readouterr().out
  assert scores(tmp_path / "plain")["cross_entropy"] != scores(tmp_path / "changed")["cross_entropy"]


@pytest.mark.parametrize("own", [True, False])
def test_images_are_turned_as_exif_says_unless_the_weight_or_an_option_leaves_it_out(
  weights, folder, tmp_path, own
):
  """The same pixels, stored turned, give the same numbers; left as stored they do not."""
  turned = tmp_path / "turned"
  tags = Image.Exif()
  tags[0x0112] = 6
  for file in folder.glob("*/*.png"):
    (turned / file.parent.name).mkdir(parents=True, exist_ok=True)
    image = Image.open(file).transpose(Image.Transpose.ROTATE_90)
    image.save(turned / file.parent.name / file.name, exif=tags.tobytes())
  (turned / "classes.json").write_text(json.dumps(CLASSES))
  run(weights, folder, "--out", tmp_path / "a")
  if own:
    run(weights, turned, "--out", tmp_path / "b")
    run(weights, turned, "--out", tmp_path / "c", "--orientation", "stored")
  else:
    ignoring = save(tmp_path / "own", transforms=[dict(fn=".data.to_rgb", upright=False), *PLAIN])
    run(ignoring, turned, "--out", tmp_path / "b", "--orientation", "upright")
    run(ignoring, turned, "--out", tmp_path / "c")
  loss = [scores(tmp_path / name)["cross_entropy"] for name in "abc"]
  assert loss[0] == loss[1]
  assert abs(loss[0] - loss[2]) > 1e-5


@pytest.mark.parametrize("more", [[], ["--flatness", "--num-examples", 3]], ids=["accuracy", "flatness"])
def test_a_data_set_of_the_hub_is_evaluated_by_its_folder(weights, folder, tmp_path, capsys, more):
  """Parquet files in `data/`, with class names in the schema and a second column of labels."""
  images = [{"bytes": file.read_bytes(), "path": file.name} for file in sorted(folder.glob("*/*.png"))]
  labels = {"color": [2] * 3 + [1] * 3 + [0] * 3, "shade": [0] * 9}
  features = {"color": {"names": list(CLASSES), "_type": "ClassLabel"}, "img": {"_type": "Image"}}
  features |= {"shade": {"names": ["dark"], "_type": "ClassLabel"}}
  metadata = {"huggingface": json.dumps({"info": {"features": features}})}
  table = pyarrow.table({"img": images, **labels}).replace_schema_metadata(metadata)
  (tmp_path / "hub" / "data").mkdir(parents=True)
  parquet.write_table(table, tmp_path / "hub" / "data" / "test-00000-of-00001.parquet")
  run(weights, tmp_path / "hub", *more, code=3)
  assert "choose one with label_column (--label-column)" in capsys.readouterr().err
  run(weights, tmp_path / "hub", "--label-column", "color", "--out", tmp_path / "a", *more)
  if not more:
    run(weights, folder, "--out", tmp_path / "b")
    assert scores(tmp_path / "a")["cross_entropy"] == scores(tmp_path / "b")["cross_entropy"]


def test_a_weight_without_preprocessing_needs_all_of_it(folder, tmp_path, capsys):
  weights = save(tmp_path / "bare", transforms=None)
  run(weights, folder, code=2)
  assert "give --crop-fraction, --mean, --std" in capsys.readouterr().err
  run(
    weights, folder, "--crop-fraction", "none", "--mean", "0,0,0", "--std", "1,1,1", "--out", tmp_path / "a"
  )
  run(save(tmp_path / "same"), folder, "--out", tmp_path / "b")
  np.testing.assert_allclose(
    scores(tmp_path / "a")["cross_entropy"], scores(tmp_path / "b")["cross_entropy"], rtol=1e-6
  )


def test_a_subset_scores_among_its_own_classes(folder, tmp_path, capsys):
  weights = save(tmp_path / "more", classes=("violet", "blue", "black", "green", "red"))
  run(weights, folder, code=3)
  assert "write --subset" in capsys.readouterr().err
  run(weights, folder, "--subset", "--out", tmp_path / "out")
  found = scores(tmp_path / "out")
  assert found["restricted"]
  assert found["top1_all"] <= found["top1"]
  assert found["class_map"] == {name: name for name in CLASSES}


def test_a_class_map_names_what_is_called_otherwise(folder, tmp_path, capsys):
  weights = save(tmp_path / "german", classes=("rot", "gruen", "blau"))
  run(weights, folder, code=3)
  assert "--class-map" in capsys.readouterr().err
  (tmp_path / "map.json").write_text(json.dumps(dict(red="rot", green="gruen", blue="blau")))
  run(weights, folder, "--class-map", tmp_path / "map.json", "--out", tmp_path / "out")
  run(save(tmp_path / "plain"), folder, "--out", tmp_path / "same")
  assert scores(tmp_path / "out")["top1"] == scores(tmp_path / "same")["top1"]


def test_a_weight_without_a_classifier_is_refused(folder, tmp_path, capsys):
  run(save(tmp_path / "headless", classes=()), folder, code=2)
  assert "has no classifier" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("option", "value"),
  [("--mean", "1,2"), ("--std", "a,b,c"), ("--crop-fraction", "half"), ("--image-size", "0")],
)
def test_values_that_cannot_be_are_named(weights, folder, capsys, option, value):
  with pytest.raises(SystemExit) as stop:
    run(weights, folder, option, value)
  assert stop.value.code == 2
  assert repr(value) in capsys.readouterr().err


def test_a_crop_fraction_above_one_is_one_line(weights, folder, capsys):
  run(weights, folder, "--crop-fraction", "2", code=2)
  assert "crop_fraction is 2.0; expected above 0 and at most 1" in capsys.readouterr().err
