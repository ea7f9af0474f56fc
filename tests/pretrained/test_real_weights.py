"""Real weights on real images reach what their authors state for them."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxtl import cli
from jaxtl.pretrained.importing import imagenet_classes

pytestmark = pytest.mark.slow


def imported(folder, shared_data, file, *arguments):
  command = ["import", shared_data / "weights" / file, *arguments, "--out", folder, "--num-devices", "1"]
  assert cli.main([str(a) for a in command]) == 0
  return folder


def scores(folder, out, data, *arguments):
  command = ["eval", folder, "--data", data, "--num-devices", "1", "--out", out, *arguments]
  assert cli.main([str(a) for a in command]) == 0
  return json.loads((out / "scores.json").read_text())


@pytest.mark.parametrize(
  ("file", "model", "layout", "stated"),
  [
    # Idelbayev, "Proper ResNet implementation for CIFAR10", 2018: 91.73 % on all 10,000 test images.
    ("cifar10_resnet20", "resnet20", "akamaster", 0.9173),
    # Banbury et al., "MLPerf Tiny Benchmark", 2021, arXiv 2106.07597: at least 85 %.
    ("cifar10_resnet8_mlperftiny", "resnet8", "mlperf_tiny", 0.85),
  ],
)
def test_cifar_networks_reach_their_accuracy(file, model, layout, stated, shared_data, tmp_path, capsys):
  classes = shared_data / "cifar10" / "classes.json"
  arguments = ("--as", model, "--layout", layout, "--classes", classes)
  folder = imported(tmp_path / "weights", shared_data, f"{file}.npz", *arguments)
  found = scores(folder, tmp_path / "out", shared_data / "cifar10", "--split", "test")
  # The set here is 1,000 of the 10,000: two standard errors below what is stated.
  assert found["num_examples"] == 1000
  assert found["top1"] > stated - 2 * np.sqrt(stated * (1 - stated) / 1000)


def test_an_imagenet_network_knows_real_photographs(shared_data, tmp_path, capsys):
  import skimage.data

  names = imagenet_classes()
  (tmp_path / "photos").mkdir()
  (tmp_path / "photos" / "classes.json").write_text(json.dumps(names))
  for photo, wnid in (("chelsea", "n02123159"), ("coffee", "n07920052")):  # a tiger cat, an espresso
    folder = tmp_path / "photos" / next(name for name in names if name.startswith(wnid))
    folder.mkdir()
    Image.fromarray(getattr(skimage.data, photo)()).save(folder / f"{photo}.png")
  arguments = ("--as", "efficientnet_lite0", "--layout", "lukemelas")
  folder = imported(tmp_path / "w", shared_data, "imagenet_efficientnet_lite0_fp16.npz", *arguments)
  found = scores(folder, tmp_path / "out", tmp_path / "photos", "--batch-size", "2")
  assert found["num_classes"] == 1000
  assert found["top1"] == 1


def test_a_quantised_network_beats_chance_by_far_among_a_hundred_classes(shared_data, tmp_path, capsys):
  arguments = ("--as", "mobilenet_v1", "--layout", "tflite", "width_factor=0.25", "--image-size", "128")
  folder = imported(tmp_path / "w", shared_data, "imagenet_mobilenet_v1_025_128.npz", *arguments)
  found = scores(
    folder,
    tmp_path / "out",
    shared_data / "tiny_imagenet_100",
    "--split",
    "val",
    "--subset",
    "--batch-size",
    "100",
  )
  assert found["num_model_classes"] == 1001
  # About 40 % of whole photographs are right among 1,000 classes; these are 64 pixels of 100 classes.
  assert found["top1"] > 0.4
