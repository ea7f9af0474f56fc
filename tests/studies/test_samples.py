import numpy as np

from jaxtl import data as data_lib
from jaxtl.studies import samples

DIGITS = {"make": ".data.digits", "split": "train"}


def config(transforms, **more):
  return {"base": {"data": {"source": DIGITS, "transforms": transforms, **more}}, "seeds": [3]}


def test_preview_shows_the_training_images_with_their_normalisation_undone():
  found = samples.preview(
    config([{"fn": ".data.normalize", "mean": [0.1] * 3, "std": [0.5] * 3}]), data_dir=None
  )
  assert found.problem == ""
  source = data_lib.digits(split="train")
  for image, title in zip(found.images, found.titles):
    same = np.all(source.pixels == image, axis=(1, 2, 3))
    assert source.classes[source.labels[np.flatnonzero(same)[0]]] == title


def test_preview_of_mixed_images_names_both_classes():
  found = samples.preview(
    config([{"fn": ".data.normalize"}], batch_transforms=[{"fn": ".data.mixup", "alpha": 1.0}]), data_dir=None
  )
  assert all(" + " in title for title in found.titles)
  assert "mixup(alpha=1)" in found.transforms


def test_large_images_are_shrunk():
  found = samples.preview(config([{"fn": ".data.resize", "size": 400}]), data_dir=None)
  assert {max(image.shape) for image in found.images} == {160}


def test_what_cannot_be_opened_is_one_line():
  broken = {"base": {"data": {"source": {"make": ".data.from_folder", "folder": "nowhere"}}}}
  found = samples.preview(broken, data_dir="/absent")
  assert "could not be opened" in found.problem
  assert "\n" not in found.problem
  described = samples.describe(broken, data_dir="/absent")
  assert [(d.role, d.kind, bool(d.problem)) for d in described] == [("training", "", True)]


def test_a_config_that_trains_nothing_has_no_preview():
  assert (
    samples.preview({"base": {"flatness": {"data": {"source": DIGITS}}}}, data_dir=None) == samples.Preview()
  )


def test_nothing_outside_jaxtl_is_imported():
  found = samples.preview({"base": {"data": {"source": {"make": "antigravity.fly"}}}}, data_dir=None)
  assert "is not a public part of" in found.problem


def test_every_part_of_a_layers_study_is_named():
  data = {"source": DIGITS}
  base = {"data": data, "validation": data, "test": data, "base": {"data": data}}
  roles = [found.role for found in samples.describe({"base": base}, data_dir=None)]
  assert roles == ["training", "validation", "test"]
  base["base"] = {"data": data | {"transforms": [{"fn": ".data.normalize"}]}}
  roles = [found.role for found in samples.describe({"base": base}, data_dir=None)]
  assert roles == ["training", "validation", "test", "training of the base network"]


def test_drawn_and_real_are_told_apart():
  base = {
    "data": {"source": {"make": ".data.glyphs", "split": "train", "num_examples": 62}},
    "transfer": {"targets": {"digits": {"train": {"source": DIGITS}, "test": {"source": DIGITS}}}},
  }
  found = samples.describe({"base": base}, data_dir=None)
  assert [(d.role, d.kind, d.num_images) for d in found] == [
    ("training", "drawn", 62),
    ("target: digits, train", "real", 999),
    ("target: digits, test", "real", 999),
  ]
