"""What is exported loads in the library it is for, in a process without jaxtl, and agrees."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.pretrained import exporting
from jaxtl.pretrained.verify import keywords_of
from jaxtl.train.step import shapes_of
from tests.oracles.cases import QUIET, Case, inputs_of, random_weights

PYTHON = os.environ.get("JAXTL_ORACLE_PYTHON", sys.executable)
_SMALL = dict(width=48, depth=2, num_heads=3, image_size=64)
_TEXT = dict(width=48, depth=2, num_heads=3, embed_dim=24, vocabulary=60)
_AUTO, _TEACHER = "AutoModelForImageClassification", "DeiTForImageClassificationWithTeacher"
TIMM = """
import sys, numpy as np, timm, torch
model = timm.create_model("local-dir:" + sys.argv[1], pretrained=True).eval()
x = torch.from_numpy(np.load(sys.argv[2])["images"]).permute(0, 3, 1, 2).contiguous()
config = timm.data.resolve_model_data_config(model)
out = model(x).detach().numpy()
np.savez(sys.argv[3], out=out, mean=config["mean"], crop=config["crop_pct"], size=config["input_size"])
assert "jaxtl" not in sys.modules and "jax" not in sys.modules
"""
TRANSFORMERS = """
import sys, numpy as np, torch, transformers
cls = getattr(transformers, sys.argv[4])
model, info = cls.from_pretrained(sys.argv[1], output_loading_info=True)
assert not info["missing_keys"] and set(info["unexpected_keys"]) <= {"logit_scale"}, info
given = np.load(sys.argv[2])
if "images" in given:
  out = model.eval()(torch.from_numpy(given["images"]).permute(0, 3, 1, 2).contiguous())
else:
  out = model.eval()(torch.from_numpy(given["tokens"]).long())
name = next(n for n in ("logits", "image_embeds", "text_embeds") if getattr(out, n, None) is not None)
more = {}
if "images" in given:
  processor = transformers.AutoImageProcessor.from_pretrained(sys.argv[1])
  pixels = processor(images=given["picture"], return_tensors="np")["pixel_values"][0]
  more["pixels"] = pixels.transpose(1, 2, 0)
np.savez(sys.argv[3], out=getattr(out, name).detach().numpy(), **more)
assert "jaxtl" not in sys.modules and "jax" not in sys.modules
"""
TORCHVISION = """
import sys, numpy as np, torch, torchvision
from safetensors.torch import load_file
model = getattr(torchvision.models, sys.argv[4])(num_classes=10)
model.load_state_dict(load_file(sys.argv[1] + "/model.safetensors"), strict=True)
x = torch.from_numpy(np.load(sys.argv[2])["images"]).permute(0, 3, 1, 2).contiguous()
np.savez(sys.argv[3], out=model.eval()(x).detach().numpy())
assert "jaxtl" not in sys.modules and "jax" not in sys.modules
"""


def weights_of(case):
  """(a checkpoint with random weights, its model)."""
  spec = case.spec()
  classes = [] if case.model.startswith("clip") else [f"class {i}" for i in range(10)]
  model = spec.realize(num_classes=len(classes))
  shape = [case.size] if case.text else [case.size, case.size, 3]
  ours = random_weights(shapes_of(model, shape))
  resize = dict(fn=".data.resize", size=[case.size, case.size], interpolation="bicubic")
  transforms = [resize, dict(fn=".data.normalize", mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])]
  config = dict(model={"make": spec.path, **spec.keywords}, classes=classes, image_shape=shape)
  config |= dict(transforms=None if case.text else transforms)
  return Weights(ours["params"], ours["batch_stats"], config, "memory"), model


def loaded(script, folder, given, tmp_path, *more):
  np.savez(tmp_path / "given.npz", **given)
  arguments = [str(folder), str(tmp_path / "given.npz"), str(tmp_path / "out.npz"), *more]
  done = subprocess.run(
    [PYTHON, "-P", "-c", script, *arguments], capture_output=True, text=True, cwd=tmp_path
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return np.load(tmp_path / "out.npz")


def ours_on(weights, model, given):
  features, _ = jax.jit(model.apply)(weights.params, weights.batch_stats, next(iter(given.values())))
  return np.asarray(features["logits" if "logits" in features else "pooled"])


def assert_close(ours, theirs):
  assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize(
  "case",
  [
    Case("timm", "resnet18"),
    Case("timm", "densenet121"),
    Case("timm", "efficientnet_b0", QUIET),
    Case("timm", "efficientnet_b0", dict(padding="symmetric", bn_epsilon=1e-5, **QUIET)),
    Case("timm", "efficientnet_lite0", QUIET),
    Case("timm", "mobilenet_v2", QUIET),
    Case("timm", "vit_s16", _SMALL),
    Case("timm", "vit_s16", dict(_SMALL, pooling="distilled")),
    Case("timm", "vit_s16", dict(_SMALL, pooling="mean")),
  ],
  ids=str,
)
def test_timm_loads_the_folder(case, tmp_path):
  weights, model = weights_of(case)
  exporting.export(weights, tmp_path / "out", format="timm")
  given = inputs_of(case, train=False)
  found = loaded(TIMM, tmp_path / "out", given, tmp_path)
  assert_close(ours_on(weights, model, given), found["out"])
  assert tuple(found["mean"]) == (0.5, 0.4, 0.3)
  assert tuple(found["size"]) == (3, 64, 64)


@pytest.mark.parametrize(
  ("case", "cls"),
  [
    (Case("hugging_face", "vit_s16", _SMALL), _AUTO),
    (Case("hugging_face", "vit_s16", dict(_SMALL, activation="gelu_tanh")), _AUTO),
    (Case("hugging_face", "vit_s16", dict(_SMALL, pooling="distilled")), _TEACHER),
    (Case("hugging_face", "clip_vit_b16", dict(_SMALL, embed_dim=24)), "CLIPVisionModelWithProjection"),
    (Case("hugging_face", "clip_text_b", _TEXT, size=77), "CLIPTextModelWithProjection"),
  ],
  ids=str,
)
def test_transformers_loads_the_folder(case, cls, tmp_path):
  weights, model = weights_of(case)
  exporting.export(weights, tmp_path / "out", format="hugging_face")
  given = inputs_of(case, train=False)
  # Blocks of grey to which bicubic interpolation adds no value outside 0 to 255.
  picture = np.kron(np.random.default_rng(0).integers(64, 192, (9, 12, 3)), np.ones((10, 10, 1))).astype(
    np.uint8
  )
  found = loaded(TRANSFORMERS, tmp_path / "out", {**given, "picture": picture}, tmp_path, cls)
  assert_close(ours_on(weights, model, given), found["out"])
  assert "library_name: transformers" in (tmp_path / "out" / "README.md").read_text()
  if "pixels" in found:
    # Pillow rounds to bytes behind each of two passes, whose weights add up to 1.3 in magnitude.
    apart = np.abs(found["pixels"] - prepared_here(picture, weights)).max(axis=(0, 1))
    assert np.all(apart < (0.5 * 1.3 + 0.5) / 255 / np.array([0.2, 0.3, 0.4]) + 1e-3)


def prepared_here(picture, weights):
  from jaxtl import config, data

  transforms = [config.spec(value).realize() for value in weights.config["transforms"]]
  source = data.from_arrays(images=picture[None], labels=np.zeros(1, np.int32), classes=("x",))
  return next(iter(data.eval_batches(source, transforms, batch_size=1)))["image"][0]


@pytest.mark.parametrize(
  "case",
  [
    Case("torchvision", "resnet50"),
    Case("torchvision", "densenet121"),
    Case("torchvision", "efficientnet_b0", QUIET),
    Case("torchvision", "mobilenet_v2", QUIET),
  ],
  ids=str,
)
def test_torchvision_loads_the_tensors(case, tmp_path):
  weights, model = weights_of(case)
  exporting.export(weights, tmp_path / "out", format="torchvision")
  given = inputs_of(case, train=False)
  found = loaded(TORCHVISION, tmp_path / "out", given, tmp_path, case.model)
  assert_close(ours_on(weights, model, given), found["out"])


def test_a_model_that_no_library_has_still_gets_a_folder_with_a_card(tmp_path):
  case = Case("jaxtl", "resnet8", size=32)
  weights, _ = weights_of(case)
  exporting.export(weights, tmp_path / "out", format="hugging_face")
  assert "library_name: jaxtl" in (tmp_path / "out" / "README.md").read_text()
  assert json.loads((tmp_path / "out" / "config.json").read_text())["model"]["make"] == ".models.resnet8"
  assert keywords_of(case.spec())["width"] == 16
