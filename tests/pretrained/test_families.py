"""A vision transformer that comes alone: its name says how its images were normalised, or nothing does."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxtl import cli
from jaxtl.checkpoints import checkpoint
from jaxtl.pretrained import LAYOUTS, families
from tests.pretrained.made_weights import VIT_KEYWORDS, made, refused, save, small_vit

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
HALF = ([0.5] * 3, [0.5] * 3)


@pytest.mark.parametrize(
  ("file", "name"),
  [
    ("deit_small_patch16_224-cd65a155.pth", "DeiT"),
    ("mae_pretrain_vit_base.pth", "MAE"),
    ("dino_deitsmall16_pretrain.pth", "DINO"),
    ("dinov2-base.safetensors", "DINO"),
    ("vit_small_patch16_224.dino", "DINO"),
    ("moco_v3_vit_s.pth.tar", "MoCo"),
    ("ibot-vits16.pth", "iBOT"),
    ("models--facebook--vit-mae-base/snapshots/0123/model.safetensors", "MAE"),
    ("DeiT-Ti/model.safetensors", "DeiT"),
    ("Ti_16-i21k-300ep.npz", ""),
    ("vit_base_patch16_224.safetensors", ""),
    ("dinosaurs/model.safetensors", ""),
    ("maestro.safetensors", ""),
    ("mae/vit/model.safetensors", ""),
  ],
)
def test_the_family_is_in_the_name_of_the_file_or_of_its_folder(file, name):
  assert families.family(Path("/data") / file, "", ()) == name


def test_the_family_is_in_what_is_said_and_in_the_tensors():
  assert families.family(Path("x.npz"), "mae facebook/vit-mae-base", ()) == "MAE"
  assert families.family(Path("x.npz"), "", ["cls_token", "dist_token"]) == "DeiT"


def normalisation(out):
  last = checkpoint.load(out).config["transforms"][-1]
  return last["mean"], last["std"]


@pytest.mark.parametrize(
  ("file", "expected", "family"),
  [
    ("deit_tiny.safetensors", IMAGENET, "DeiT"),
    ("mae_vit.safetensors", IMAGENET, "MAE"),
    ("dino_vits16.safetensors", IMAGENET, "DINO"),
    ("weights.safetensors", HALF, ""),
  ],
)
@pytest.mark.parametrize("layout", ["timm", "hugging_face"])
def test_a_lone_file_is_normalised_by_family_and_what_is_assumed_is_said(
  tmp_path, out, class_list, capsys, file, expected, family, layout
):
  path = save(tmp_path / file, small_vit(layout).theirs)
  arguments = ["import", path, "--as", "vit_ti16", "--layout", layout, "--out", out, "--classes", class_list]
  assert cli.main([str(a) for a in (*arguments, *VIT_KEYWORDS)]) == 0
  assert normalisation(out) == expected
  lines = capsys.readouterr().out.splitlines()
  mean = " ".join(f"{x:g}" for x in expected[0])
  assert any(
    "crop " in line and "interpolation bic" in line and f"mean {mean}, std" in line for line in lines
  ) or (any(f"interpolation bilinear, mean {mean}, std" in line for line in lines))
  assert any(line.startswith("assumed, because no config file specifies it: crop, inter") for line in lines)
  assert any(f"a weight of {family}," in line for line in lines) == bool(family)


def test_deit_of_hugging_face_without_a_processor(tmp_path, out):
  folder = tmp_path / "hub"
  folder.mkdir()
  save(folder / "model.safetensors", small_vit("hugging_face", pooling="distilled").theirs)
  labels = {"0": "ant", "1": "bee", "2": "cat"}
  (folder / "config.json").write_text(json.dumps(dict(model_type="deit", id2label=labels)))
  arguments = ["import", folder, "--as", "vit_ti16", "--layout", "hugging_face", "--out", out, *VIT_KEYWORDS]
  assert cli.main([str(a) for a in arguments]) == 0
  assert normalisation(out) == IMAGENET
  assert checkpoint.load(out).config["transforms"][0] == dict(
    fn=".data.resize", size=18, interpolation="bicubic"
  )


def test_options_and_files_are_not_assumed(imported, tmp_path, vit):
  _, text = imported("--mean", "0.1,0.2,0.3", "--crop-fraction", "none")
  assert "crop none, interpolation bicubic, mean 0.1 0.2 0.3, std 0.5 0.5 0.5" in text
  assert "specifies it: interpolation, std; other values: --interpolation, --std" in text


def test_nothing_is_assumed_where_a_file_says_all(tmp_path, out, capsys):
  folder = tmp_path / "deit_tiny"  # what is said goes over what a name suggests
  folder.mkdir()
  save(folder / "model.safetensors", small_vit("timm").theirs)
  cfg = dict(input_size=[3, 16, 16], mean=[0.1] * 3, std=[0.2] * 3, crop_pct=0.9, interpolation="bilinear")
  config = dict(architecture="vit_tiny_patch16_224", pretrained_cfg=cfg, label_names=["a", "b", "c"])
  (folder / "config.json").write_text(json.dumps(config))
  arguments = ["import", folder, "--as", "vit_ti16", "--layout", "timm", "--out", out, *VIT_KEYWORDS]
  assert cli.main([str(a) for a in arguments]) == 0
  text = capsys.readouterr().out
  assert "crop 0.9, interpolation bilinear, mean 0.1 0.1 0.1, std 0.2 0.2 0.2" in text
  assert "assumed, because" not in text


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_vision_transformers_have_families(layout):
  for name in ("resnet50", "clip_vit_b32"):
    if LAYOUTS[layout].has(name):
      usual = LAYOUTS[layout].preprocessing(name)
      assert families.prepared(usual, layout, name, "DeiT") == usual


def headless(vit):
  return {key: value for key, value in vit.theirs.items() if not key.startswith("head.")}


def test_a_classifier_of_21843_outputs_is_left_out_without_names(imported, out):
  vit = small_vit("timm", num_classes=21843)
  weights, text = imported("--no-head", tensors=vit.theirs, classes=False)
  assert weights.classes == ()
  assert "head" not in weights.params
  np.testing.assert_array_equal(weights.params["norm"]["scale"], vit.ours["params"]["norm"]["scale"])
  assert "classifier left out: head.bias (21843,), head.weight (21843, 8)" in text
  assert "no classes" in text


@pytest.mark.parametrize("option", ["--no-head", "num_classes=0"])
@pytest.mark.parametrize("with_head", [True, False])
def test_no_classes_are_no_classifier(imported, vit, option, with_head):
  weights, _ = imported(option, tensors=vit.theirs if with_head else headless(vit), classes=False)
  assert weights.classes == ()
  assert "num_classes" not in weights.config["model"]
  assert "head" not in weights.params


def test_both_classifiers_of_a_distilled_network_are_left_out(imported):
  vit = small_vit("timm", pooling="distilled")
  weights, text = imported("--no-head", "pooling=distilled", tensors=vit.theirs, classes=False)
  assert "head" not in weights.params
  assert "head_dist.weight" in text


def test_a_convolutional_network_without_its_head(tmp_path, out, capsys):
  net = made("timm", "mobilenet_v2", size=32, width_factor=0.1)
  path = save(tmp_path / "x.safetensors", net.theirs)
  arguments = ["import", path, "--as", "mobilenet_v2", "--layout", "timm", "width_factor=0.1", "--no-head"]
  assert cli.main([str(a) for a in (*arguments, "--out", out)]) == 0
  assert checkpoint.load(out).classes == ()
  assert "classifier left out: classifier.bias (3,), classifier.weight" in capsys.readouterr().out


def test_no_head_with_names_for_it_is_refused(vit_command, capsys):
  assert "--classes names the outputs of a classifier, which --no-head" in refused(
    capsys, *vit_command("--no-head")
  )


def test_no_head_of_a_text_tower_is_refused(tmp_path, out, capsys):
  sizes = dict(width=8, depth=1, num_heads=2, embed_dim=4, vocabulary=9, context=5)
  path = save(tmp_path / "x.safetensors", made("openai", "clip_text_b", size=5, **sizes).theirs)
  keywords = [f"{key}={value}" for key, value in sizes.items()]
  arguments = ["import", path, "--as", "clip_text_b", "--layout", "openai", "--out", out, *keywords]
  assert "clip_text_b has no classifier; leave --no-head out" in refused(capsys, *arguments, "--no-head")
