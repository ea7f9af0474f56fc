"""Names as training programs write them: what stands before them goes, and the import says so."""

import argparse
from collections import OrderedDict

import jax
import numpy as np
import pytest

from jaxtl import cli
from jaxtl.checkpoints import checkpoint
from jaxtl.errors import CheckpointError, InputError
from jaxtl.pretrained.prefixes import without_prefixes
from tests.pretrained import torch_files
from tests.pretrained.made_weights import VIT_KEYWORDS, made, refused, save, small_vit
from tests.pretrained.torch_files import Tensor

EXPECTED = ("conv1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.bias", "fc.weight")


def renamed(keys, expected=EXPECTED, **options):
  tensors = {key: np.full(1, i) for i, key in enumerate(keys)}
  return without_prefixes(tensors, expected, canonical=lambda key: key, **options)


@pytest.mark.parametrize(
  ("prefix", "note"),
  [
    ("", None),
    ("_orig_mod.", "_orig_mod."),
    ("module.", "module."),
    ("model.", "model."),
    ("net.", "net."),
    ("module._orig_mod.", "_orig_mod. module."),
    ("model._orig_mod.module.", "_orig_mod. model.module."),
    ("resnet.", "resnet."),
    ("a.b.c.", "a.b.c."),
  ],
)
def test_what_stands_before_all_names_goes(prefix, note):
  found = renamed([prefix + key for key in EXPECTED])
  assert tuple(found.tensors) == EXPECTED
  assert [int(x[0]) for x in found.tensors.values()] == [0, 1, 2, 3]
  assert found.notes == ((f"stripped from the names: {note}",) if note else ())


def test_a_part_that_was_compiled_or_sharded_alone_is_renamed():
  keys = [
    "conv1.weight",
    "layer1._orig_mod.0.conv1.weight",
    "layer1._fsdp_wrapped_module.0._checkpoint_wrapped_module.bn1.bias",
  ]
  assert tuple(renamed([*keys, "fc.weight"]).tensors) == EXPECTED


def test_what_lies_beside_the_model_keeps_its_name():
  keys = ["model." + key for key in EXPECTED] + ["criterion.weight", "fc_of_something._orig_model.bias"]
  found = renamed(keys)
  assert set(found.tensors) == {*EXPECTED, "criterion.weight", "fc_of_something._orig_model.bias"}


def test_names_that_lack_what_the_layout_has_before_them_get_it():
  """Hugging Face's ViTModel has `embeddings.cls_token`, its classifier `vit.embeddings.cls_token`."""
  found = renamed(["a", "b.c", "pooler.x"], ["vit.a", "vit.b.c", "vit.d", "classifier.weight"])
  assert set(found.tensors) == {"vit.a", "vit.b.c", "vit.pooler.x"}
  assert found.notes == ("prepended to the names: vit.",)


def test_a_file_of_another_network_is_not_renamed():
  keys = ["model.stem.weight", "model.fc.weight", "model.norm.weight"]
  assert set(renamed(keys).tensors) == set(keys)


def test_a_known_name_goes_before_another():
  keys = [before + key for before in ("model.", "ema.") for key in EXPECTED]
  found = renamed(keys)
  assert set(found.tensors) == {*EXPECTED, *("ema." + key for key in EXPECTED)}


def test_two_models_of_unknown_names_are_refused_until_one_is_named():
  keys = [before + key for before in ("student.", "teacher.") for key in EXPECTED]
  with pytest.raises(CheckpointError, match=r"below 'student\.' and 'teacher\.'; write --prefix"):
    renamed(keys)
  found = renamed(keys, prefix="teacher.")
  assert [int(x[0]) for x in found.tensors.values()] == [4, 5, 6, 7]
  assert found.dropped == 4
  with pytest.raises(InputError, match=r"no tensor's name begins with 'tutor\.'; the file has student\."):
    renamed(keys, prefix="tutor.")


def test_two_tensors_that_would_get_one_name_are_refused():
  with pytest.raises(CheckpointError, match=r"holds conv1\.weight twice"):
    renamed(["conv1._orig_mod.weight", *EXPECTED])


def same(out, ours):
  weights = checkpoint.load(out)
  jax.tree.map(np.testing.assert_array_equal, weights.params, ours["params"])
  jax.tree.map(np.testing.assert_array_equal, weights.batch_stats, ours["batch_stats"])


@pytest.mark.parametrize(
  "prefix", ["_orig_mod.", "module.", "model.", "module._orig_mod.", "learner.backbone."]
)
def test_a_file_with_a_prefix_is_imported_and_the_prefix_said(imported, vit, out, prefix):
  _, text = imported(tensors={prefix + key: value for key, value in vit.theirs.items()})
  same(out, vit.ours)
  assert "stripped from the names: " in text


def test_a_training_of_timm_s_is_imported(tmp_path, out, class_list, capsys):
  """As timm's train.py saves it: the moving average beside the weights, and the arguments."""
  resnet = made("timm", "resnet18", size=32, width=2)
  state = OrderedDict((key, Tensor(value)) for key, value in resnet.theirs.items())
  raw = OrderedDict((key, Tensor(np.zeros_like(value))) for key, value in resnet.theirs.items())
  stored = dict(epoch=9, arch="resnet18", state_dict=raw, optimizer={"state": {}}, version=2)
  stored |= dict(args=argparse.Namespace(model="resnet18", lr=0.1), amp_scaler={"scale": 1.0})
  stored |= dict(state_dict_ema=state, metric=np.float64(71.2))
  path = torch_files.save(stored, tmp_path / "model_best.pth.tar")
  arguments = ["import", path, "--as", "resnet18", "--layout", "timm", "width=2", "--classes", class_list]
  assert cli.main([str(a) for a in (*arguments, "--out", out)]) == 0
  same(out, resnet.ours)
  assert "read from below state_dict_ema in the file" in capsys.readouterr().out


@pytest.mark.parametrize("with_average", [False, True])
def test_a_training_of_torchvision_s_is_imported(tmp_path, out, class_list, capsys, with_average):
  """As its references/classification/train.py saves it; the average is an AveragedModel, which counts."""
  resnet = made("torchvision", "resnet18", size=32, width=2)
  state = OrderedDict((key, Tensor(value)) for key, value in resnet.theirs.items())
  stored = dict(model=state, optimizer={"state": {}, "param_groups": [{"lr": 0.1}]}, epoch=9)
  stored |= dict(lr_scheduler={"last_epoch": 10}, args=argparse.Namespace(model="resnet18", device="cuda"))
  if with_average:
    average = OrderedDict((f"module.{key}", value) for key, value in state.items())
    raw = OrderedDict((key, Tensor(np.zeros_like(value))) for key, value in resnet.theirs.items())
    stored |= dict(model=raw, model_ema=OrderedDict(n_averaged=Tensor(np.int64(7)), **average))
  path = torch_files.save(stored, tmp_path / "checkpoint.pth")
  arguments = ["import", path, "--as", "resnet18", "--layout", "torchvision", "width=2"]
  assert cli.main([str(a) for a in (*arguments, "--classes", class_list, "--out", out)]) == 0
  same(out, resnet.ours)
  text = capsys.readouterr().out
  assert ("read from below model_ema in the file" in text) == with_average
  assert ("stripped from the names: module." in text) == with_average


def test_a_training_of_lightning_s_is_imported(tmp_path, out, class_list, capsys):
  """As its Trainer saves it, of a compiled model."""
  vit = small_vit("timm")
  state = OrderedDict((f"model._orig_mod.{key}", Tensor(value)) for key, value in vit.theirs.items())
  stored = {
    "epoch": 1,
    "global_step": np.int64(10),
    "pytorch-lightning_version": "2.5.0",
    "state_dict": state,
  }
  stored |= {"hyper_parameters": {"args": argparse.Namespace(lr=0.1)}, "loops": {}, "callbacks": {}}
  path = torch_files.save(stored, tmp_path / "epoch=1-step=10.ckpt")
  arguments = ["import", path, "--as", "vit_ti16", "--layout", "timm", *VIT_KEYWORDS, "--out", out]
  assert cli.main([str(a) for a in (*arguments, "--classes", class_list)]) == 0
  same(out, vit.ours)
  assert "stripped from the names: _orig_mod. model." in capsys.readouterr().out


def test_the_prefix_option_chooses_a_model(imported, vit, out):
  zeros = {f"student.{key}": np.zeros_like(value) for key, value in vit.theirs.items()}
  _, text = imported(
    *("--prefix", "teacher."), tensors=zeros | {f"teacher.{key}": x for key, x in vit.theirs.items()}
  )
  same(out, vit.ours)
  assert f"of another model: {len(zeros)} tensors" in text


def test_a_model_of_transformers_without_classifier_is_imported(tmp_path, out):
  vit = small_vit("hugging_face", num_classes=0)
  tensors = {key.removeprefix("vit."): value for key, value in vit.theirs.items()}
  path = save(tmp_path / "model.safetensors", tensors | {"pooler.dense.bias": np.zeros(8, np.float32)})
  arguments = ["import", path, "--as", "vit_ti16", "--layout", "hugging_face", *VIT_KEYWORDS, "--out", out]
  assert cli.main([str(a) for a in arguments]) == 0
  same(out, vit.ours)


def test_of_a_file_that_does_not_fit_five_names_of_each_side_are_shown(vit_command, capsys):
  tensors = {f"w{i}": np.zeros(2, np.float32) for i in range(7)}
  line = refused(capsys, *vit_command(tensors=tensors))
  assert "the file has w0, w1, w2, w3, w4 and 2 more" in line
  assert "expected blocks.0.attn.proj.bias, blocks.0.attn.proj.weight, " in line


def test_names_that_would_steer_a_terminal_are_shown_escaped(vit_command, capsys):
  line = refused(capsys, *vit_command(tensors={"a\n\x1b[31mb": np.zeros(2, np.float32)}))
  assert r"a\n\x1b[31mb" in line
