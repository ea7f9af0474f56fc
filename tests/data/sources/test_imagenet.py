"""ImageNet in either form has the same labels, and what is missing is named."""

import numpy as np
import pytest
from PIL import Image

from jaxtl import data
from jaxtl.errors import DataError
from jaxtl.runner import config_file
from jaxtl.runner import run as study
from jaxtl.train import Runtime, make_mesh
from tests.data.made_images import smooth_image
from tests.test_configs import ROOT

IDS = ("n01440764", "n01443537", "n01484850", "n02510455")


@pytest.fixture
def imagenet(tmp_path):
  """Class folders as the original archives unpack to; the validation set lacks a class."""
  for split, ids, count in (("train", IDS, 6), ("val", IDS[1:], 3)):
    for number, name in enumerate(ids):
      folder = tmp_path / "imagenet" / split / name
      folder.mkdir(parents=True)
      for i in range(count):
        Image.fromarray(smooth_image(40, 50, seed=10 * number + i)).save(folder / f"{name}_{i}.JPEG")
  return tmp_path / "imagenet"


def test_class_folders_have_one_class_list(imagenet):
  train = data.imagenet(split="train", data_dir=str(imagenet))
  val = data.imagenet(split="val", data_dir=str(imagenet))
  assert train.classes == val.classes == IDS
  assert (len(train), len(val)) == (24, 9)
  np.testing.assert_array_equal(np.unique(val.labels), [1, 2, 3])
  assert val.name == "imagenet/val"


def test_what_is_not_there_is_named(tmp_path):
  with pytest.raises(DataError, match=r"train has no class folders, and .*imagenet2012"):
    data.imagenet(split="train", data_dir=str(tmp_path))
  with pytest.raises(DataError, match="no split 'test'; write 'train' or 'val'"):
    data.imagenet(split="test", data_dir=str(tmp_path))


@pytest.mark.parametrize("name", ["resnet50", "vit_b16"])
def test_the_shipped_configs_train_when_shrunk(name, imagenet, tmp_path):
  small = "base.model={'make': '.models.resnet8', 'width': 4}"
  if name == "vit_b16":
    small = (
      "base.model={'make': '.models.vit_ti16', 'width': 32, 'depth': 2, 'num_heads': 2, 'image_size': 32, "
      "'dtype': 'bfloat16', 'remat': True}"
    )
  overrides = [
    small,
    "base.data.transforms.0.size=32",
    "base.data.batch_size=8",
    "base.data.num_examples=24",
    "base.data.num_classes=4",
    "base.evaluation.val.transforms.0.size=36",
    "base.evaluation.val.transforms.1.size=32",
    "base.evaluation.val.batch_size=8",
    "base.evaluation.val.num_examples=9",
    "base.evaluation.val.num_classes=4",
    "base.flatness.data.transforms.0.size=36",
    "base.flatness.data.transforms.1.size=32",
    "base.flatness.data.batch_size=8",
    "base.flatness.num_examples=8",
    "base.flatness.num_iters=2",
    "base.epochs=1.0",
    "base.optimizer.schedule={'make': '.optim.cosine', 'warmup_steps': 1}",
    "base.transfer=None",  # the targets are of TFDS
    "seeds=(0,)",
  ]
  config = config_file.load_config(ROOT / "configs" / "pretrain" / f"imagenet_{name}.py", overrides)
  runtime = Runtime(make_mesh(8), data_dir=str(imagenet))
  rows = study.run_study(config, workdir=tmp_path / "run", runtime=runtime, arms=["smoothed_hinge", "sam"])
  assert [row["arm"] for row in rows] == ["smoothed_hinge", "sam"]
  for row in rows:
    assert np.isfinite([row["lambda_max"], row["val/top1"]]).all()
