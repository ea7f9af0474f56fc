import numpy as np

from jaxtl import data as data_lib
from jaxtl.report import preview

DIGITS = {"make": ".data.digits", "split": "train"}


def config(transforms, **more):
  return {"base": {"data": {"source": DIGITS, "transforms": transforms, **more}}, "seeds": [3]}


def test_preview_shows_the_training_images_with_their_normalisation_undone():
  found = preview.preview(
    config([{"fn": ".data.normalize", "mean": [0.1] * 3, "std": [0.5] * 3}]), data_dir=None
  )
  assert found.problem == ""
  source = data_lib.digits(split="train")
  for image, title in zip(found.images, found.titles):
    same = np.all(source.pixels == image, axis=(1, 2, 3))
    assert source.classes[source.labels[np.flatnonzero(same)[0]]] == title


def test_preview_of_mixed_images_names_both_classes():
  found = preview.preview(
    config([{"fn": ".data.normalize"}], batch_transforms=[{"fn": ".data.mixup", "alpha": 1.0}]), data_dir=None
  )
  assert all(" + " in title for title in found.titles)
  assert "mixup(alpha=1)" in found.transforms


def test_preview_of_smoothed_labels_names_their_classes():
  mix = {"fn": ".data.timm_mix", "mixup_alpha": 1.0, "mode": "element", "smoothing": 0.1}
  found = preview.preview(config([{"fn": ".data.normalize"}], batch_transforms=[mix]), data_dir=None)
  assert found.problem == ""
  classes = data_lib.digits(split="train").classes
  for title in found.titles:
    parts = [part.split(" ", 1) for part in title.split(" + ")]
    assert {name for _, name in parts} <= set(classes)
    # The other classes share the smoothing of 0.1 of ten classes.
    assert 0.85 < sum(float(share) for share, _ in parts) <= 1


def test_large_images_are_shrunk():
  found = preview.preview(config([{"fn": ".data.resize", "size": 400}]), data_dir=None)
  assert {max(image.shape) for image in found.images} == {160}


def test_what_cannot_be_opened_is_one_line():
  broken = {"base": {"data": {"source": {"make": ".data.from_folder", "folder": "nowhere"}}}}
  found = preview.preview(broken, data_dir="/absent")
  assert "could not be opened" in found.problem
  assert "\n" not in found.problem
  described = preview.describe(broken, data_dir="/absent")
  assert [(d.role, d.kind, bool(d.problem)) for d in described] == [("data", "", True)]


def test_a_config_that_trains_nothing_has_no_preview():
  assert (
    preview.preview({"base": {"flatness": {"data": {"source": DIGITS}}}}, data_dir=None) == preview.Preview()
  )


def test_nothing_outside_jaxtl_is_imported():
  found = preview.preview({"base": {"data": {"source": {"make": "antigravity.fly"}}}}, data_dir=None)
  assert "is not a public part of" in found.problem


def test_every_data_set_is_named_by_its_path():
  data = {"source": DIGITS}
  base = {"data": data, "validation": data, "test": data, "base": {"data": data}}
  roles = [found.role for found in preview.describe({"base": base}, data_dir=None)]
  assert roles == ["data", "validation", "test", "base.data"]


def test_a_source_inside_another_is_a_part_of_it():
  subset = {"make": ".data.subset", "source": DIGITS, "num_examples": 10}
  [found] = preview.describe({"base": {"flatness": {"data": {"source": subset}}}}, data_dir=None)
  assert (found.role, found.num_images) == ("flatness.data", 10)


def test_drawn_and_real_are_told_apart():
  base = {
    "data": {"source": {"make": ".data.glyphs", "split": "train", "num_examples": 62}},
    "transfer": {"targets": {"digits": {"train": {"source": DIGITS}, "test": {"source": DIGITS}}}},
  }
  found = preview.describe({"base": base}, data_dir=None)
  assert [(d.role, d.kind, d.num_images) for d in found] == [
    ("data", "synthetic", 62),
    ("transfer.targets.digits.train", "real", 999),
    ("transfer.targets.digits.test", "real", 999),
  ]
