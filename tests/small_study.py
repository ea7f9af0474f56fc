"""A whole study, small enough to run in seconds."""

import copy
import shutil

import pytest

from jaxtl import train
from jaxtl.config import parse
from jaxtl.measure.lambda_max import Flatness
from jaxtl.train import Experiment
from tests.small_training import quiet_runtime, runtime, tiny_config

__all__ = ["runtime", "study_config"]


def _data(transforms, batch_size, **source):
  return dict(
    source=dict(make="tests.small_training.squares", **source), transforms=transforms, batch_size=batch_size
  )


def make_study_config():
  """The config of a study with two arms, one seed, and everything that a study has, as plain data."""
  plain = [dict(fn=".data.normalize")]
  target = dict(train=_data(plain, 16, num_classes=2, seed=5), test=_data(plain, 32, num_classes=2, seed=6))
  loss = dict(fn=".losses.softmax_cross_entropy")
  base = tiny_config(
    epochs=1.0,
    tune=dict(peak_rates=[0.01, 0.1], epochs=0.5, evaluation="test", held_out=0.25),
    flatness=dict(data=_data(plain, 16), num_examples=48, num_iters=4, tolerance=0.5),
    transfer=dict(
      targets=dict(two=target),
      linear_probe=dict(l2=[0.01, 0.1]),
      fine_tune=dict(
        task=dict(make=".tasks.classification", frozen_stats=True, loss=loss),
        optimizer=dict(make=".optim.adam", peak_rate=1e-3),
        epochs=1.0,
        evaluate_every_epochs=0.5,
      ),
    ),
  )
  arms = dict(
    smoothed_hinge=dict(task=dict(loss=dict(fn=".losses.multiclass_smoothed_hinge", margin=7.0))),
    from_scratch=dict(epochs=0.0, tune=None, flatness=None),
  )
  return copy.deepcopy(dict(study=".studies.pretrain.rows", seeds=[0], title="tiny", base=base, arms=arms))


@pytest.fixture
def study_config():
  """That config, for this test alone."""
  return make_study_config()


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
  """The folder of a training, which no test may change, and the training."""
  experiment = parse(tiny_config(epochs=2.0), Experiment)
  folder = tmp_path_factory.mktemp("trained") / "start"
  return folder, train.run(experiment, seed=0, runtime=quiet_runtime(), workdir=folder)


@pytest.fixture
def checkpointed(trained_once, tmp_path):
  """A folder of that training for this test alone, and the training."""
  folder, trained = trained_once
  shutil.copytree(folder, tmp_path / "start")
  return str(tmp_path / "start"), trained


@pytest.fixture
def settings(study_config):
  return parse(study_config["base"]["flatness"] | dict(num_iters=300, tolerance=1e-3), Flatness)


@pytest.fixture(scope="session")
def patched_once(trained_once, tmp_path_factory):
  """The folder of a patching study of one pair, which no test may change."""
  from tests.studies.patching.test_study import (  # a test module: imported late, for its assertions
    base_of,
    run,
  )

  base, folder = base_of(str(trained_once[0])), tmp_path_factory.mktemp("patched") / "run"
  run(dict(base, patching=dict(two=base["patching"]["two"])), quiet_runtime, folder)
  return folder


@pytest.fixture
def finished(patched_once, tmp_path):
  """A folder of that study for this test alone, whose rows it may replace by numbers of its own."""
  shutil.copytree(patched_once, tmp_path / "run")
  return tmp_path / "run"
