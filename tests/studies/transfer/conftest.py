"""A trained network to transfer."""

import pytest

from jaxtl import train
from jaxtl.config import parse
from jaxtl.train import Experiment
from tests.small_training import tiny_config


@pytest.fixture(scope="module")
def start(tmp_path_factory):
  """A trained network."""
  runtime = train.Runtime(train.make_mesh(1))
  experiment = parse(tiny_config(epochs=1.0, evaluation={}), Experiment)
  return train.run(experiment, seed=0, runtime=runtime, workdir=tmp_path_factory.mktemp("start")).weights
