"""Targets that take their preprocessing from the checkpoint."""

import jax
import numpy as np
import pytest

from jaxtl import data as data_lib
from jaxtl.config import parse, plain
from jaxtl.errors import ConfigError
from jaxtl.measure import linear_probe
from jaxtl.models import resnet8
from jaxtl.studies.transfer import preprocessing, settings
from jaxtl.studies.transfer import study as transfer
from jaxtl.train import Weights
from jaxtl.train.inputs import Data
from jaxtl.train.step import init_model
from tests.small_training import runtime

__all__ = ["runtime"]  # fixtures

OWN = data_lib.Preprocessing(size=16, crop_fraction=0.5, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)).specs()
OTHER = [dict(fn=".data.resize", size=[8, 8]), dict(fn=".data.normalize")]


def weights(transforms=OWN):
  params, stats = init_model(resnet8(num_classes=3, width=4), jax.random.key(0), (16, 16, 3))
  config = {
    "model": dict(make=".models.resnet8", width=4),
    "classes": list("abc"),
    "image_shape": [16, 16, 3],
    "transforms": transforms,
  }
  as_numpy = jax.tree.map(np.asarray, (params, stats))
  return Weights(*as_numpy, config, "somewhere")


def data(transforms=(), seed=5, batch_size=16):
  source = dict(make="tests.small_training.squares", num_classes=2, seed=seed)
  return parse(dict(source=source, transforms=list(transforms), batch_size=batch_size), Data)


def written(one):
  return plain(list(one.transforms))


def test_what_is_left_out_is_the_checkpoints():
  train, test = preprocessing.filled(data(), data(), weights(), at="x")
  assert written(test) == OWN
  assert written(train) == [
    dict(fn=".data.random_resized_crop", size=16, interpolation="bilinear"),
    dict(fn=".data.flip_left_right"),
    OWN[-1],
  ]


def test_what_the_config_says_stays():
  given = data(OTHER)
  assert preprocessing.filled(given, given, weights(), at="x") == (given, given)
  assert preprocessing.filled(given, data(), weights(), at="x")[0] == given
  train, test = preprocessing.filled(data(), given, weights(), at="x")
  assert test == given
  assert written(train) == [dict(fn=".data.flip_left_right"), *OTHER]


def test_images_of_another_size_are_resized_to_the_checkpoints():
  """A run on images of 16 pixels has no resize of its own."""
  train, test = preprocessing.filled(data(), data(), weights([dict(fn=".data.normalize")]), at="x")
  assert written(test)[0] == dict(fn=".data.resize", size=[16, 16], interpolation="bilinear")
  assert written(train)[:2] == [dict(fn=".data.flip_left_right"), written(test)[0]]


def test_transforms_that_are_no_preprocessing_are_taken_as_they_are():
  own = [dict(fn=".data.grayscale", probability=1.0), *OTHER]
  if not hasattr(data_lib, "grayscale"):
    own = [dict(fn=".data.center_crop", size=16), dict(fn=".data.resize", size=8), dict(fn=".data.normalize")]
  _, test = preprocessing.filled(data(), data(), weights(own), at="x")
  assert written(test) == own


def test_a_checkpoint_that_does_not_say_is_refused():
  with pytest.raises(ConfigError, match=r"targets.x has no transforms, and somewhere does not say"):
    preprocessing.filled(data(), data(), weights(None), at="targets.x")


@pytest.mark.parametrize(
  ("transforms", "other"),
  [
    (OWN, False),
    ([], False),
    (OTHER, True),
    ([dict(fn=".data.resize", size=[8, 8])], True),
    ([dict(fn=".data.normalize", mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])], False),
    ([dict(fn=".data.normalize", mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.7])], True),
  ],
)
def test_another_normalisation_is_known(transforms, other):
  assert preprocessing.differs(data(transforms), weights()) == other
  assert not preprocessing.differs(data(transforms), weights(None))


def test_a_probe_without_transforms_is_that_with_the_checkpoints_written_out(runtime, tmp_path):
  """And one note names the target that is normalised otherwise."""
  start, rows, notes = weights(), {}, []
  place = runtime()
  place.progress.note = notes.append
  for name, transforms in (("left_out", ()), ("written", OWN), ("other", OTHER)):
    target = dict(train=data(transforms), test=data(transforms, seed=6, batch_size=32))
    targets = {"squares": settings.Target(**target), "again": settings.Target(**target)}
    protocols = settings.Protocols(targets, linear_probe.LinearProbe(l2=(0.1,)))
    measured = transfer.measure(
      protocols, start.model_spec(), start, seed=0, workdir=tmp_path / name, runtime=place
    )
    rows[name] = [{k: v for k, v in row.items() if k != "seconds"} for row in measured]
    assert len(notes) == (name == "other")
  assert rows["left_out"] == rows["written"]
  assert rows["other"][0]["loss"] != rows["written"][0]["loss"]
  assert notes[0].startswith(
    "squares, again: normalised differently from the images of somewhere, which had the"
  )
  assert "mean 0.1, 0.2, 0.3 and std 0.4, 0.5, 0.6" in notes[0]
