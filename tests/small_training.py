"""A task small enough to train in a second: coloured squares, and a tiny residual network."""

import subprocess

import numpy as np
import pytest

from jaxtl import data
from jaxtl.config import parse
from jaxtl.host.progress import Progress
from jaxtl.train import Experiment, Runtime, make_mesh


def squares(
  *, num_examples: int = 96, num_classes: int = 3, seed: int = 0, names: str = "abcdefgh"
) -> data.Source:
  """Noise whose colour channel tells the class."""
  rng = np.random.default_rng(seed)
  labels = np.arange(num_examples) % num_classes
  images = rng.integers(0, 120, (num_examples, 8, 8, 3))
  images[np.arange(num_examples), :, :, labels % 3] += 100
  return data.from_arrays(
    images=images.astype(np.uint8), labels=labels, classes=list(names[:num_classes]), name="squares"
  )


def tiny_config(**changes):
  source = dict(make="tests.small_training.squares")
  transforms = [dict(fn=".data.flip_left_right"), dict(fn=".data.normalize")]
  return (
    dict(
      model=dict(make=".models.resnet8", width=4),
      task=dict(make=".tasks.classification", loss=dict(fn=".losses.softmax_cross_entropy")),
      data=dict(source=source, transforms=transforms, batch_size=16),
      evaluation=dict(test=dict(source=source | dict(seed=1), transforms=transforms[1:], batch_size=32)),
      optimizer=dict(make=".optim.sgd", peak_rate=0.1),
      epochs=2.0,
      log_every=1,
    )
    | changes
  )


@pytest.fixture
def tiny():
  return lambda **changes: parse(tiny_config(**changes), Experiment)


def quiet_runtime(num_devices: int = 1) -> Runtime:
  """A place to run that prints nothing."""
  return Runtime(make_mesh(num_devices), progress=Progress(stream=open("/dev/null", "w")))


@pytest.fixture
def runtime():
  return quiet_runtime


@pytest.fixture
def small_disk(tmp_path):
  """A file system of 2 MB."""
  folder = tmp_path / "disk"
  folder.mkdir()
  mounted = subprocess.run(
    ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True
  )
  if mounted.returncode:
    pytest.skip("mounting a small tmpfs needs root, which this user is not")
  yield folder
  subprocess.run(["umount", "-l", str(folder)], check=True)
