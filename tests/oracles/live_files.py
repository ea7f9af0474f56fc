"""torch's files through its restricted loader, and the numbers that libraries state about their weights."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxtl import cli
from jaxtl.checkpoints import checkpoint
from jaxtl.pretrained import LAYOUTS, readers
from jaxtl.weights import resize_positions
from tests.oracles.cases import Case, prepared

PYTHON = os.environ.get("JAXTL_ORACLE_PYTHON", sys.executable)


def python(code, *arguments):
  done = subprocess.run([PYTHON, "-P", "-c", code, *map(str, arguments)], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-2000:]
  return done.stdout


SAVE = """
import sys, torch
from safetensors.torch import load_file
weights = load_file(sys.argv[1])
form = sys.argv[3]
if form == "plain": stored = weights
elif form == "wrapped": stored = {"epoch": 3, "state_dict": {"module." + k: v for k, v in weights.items()}}
elif form == "ema": stored = {"state_dict": {k: v * 0 for k, v in weights.items()}, "state_dict_ema": weights}
elif form == "half": stored = {k: v.half() for k, v in weights.items()}
elif form == "legacy": stored = weights
torch.save(stored, sys.argv[2], _use_new_zipfile_serialization=form != "legacy")
"""


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
  from safetensors.numpy import save_file

  _, ours, _, tensors = prepared(Case("torchvision", "resnet18"), train=False)
  file = tmp_path_factory.mktemp("torch") / "weights.safetensors"
  save_file(tensors, file)
  return file, ours


@pytest.mark.parametrize("form", ["plain", "wrapped", "ema", "half", "legacy"])
def test_a_torch_file_gives_its_tensors(resnet, form, tmp_path):
  file, ours = resnet
  python(SAVE, file, tmp_path / "weights.pth", form)
  arguments = ["import", tmp_path / "weights.pth", "--as", "resnet18", "--layout", "torchvision"]
  (tmp_path / "classes.json").write_text(json.dumps([str(i) for i in range(10)]))
  arguments += ["--classes", tmp_path / "classes.json", "--out", tmp_path / "out"]
  assert cli.main([str(a) for a in arguments]) == 0
  found = checkpoint.load(tmp_path / "out")
  tolerance = dict(rtol=1e-3, atol=1e-6) if form == "half" else dict(rtol=0)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), found.params, ours["params"])


def test_verify_prints_the_difference_from_the_original(resnet, tmp_path, capsys):
  file, _ = resnet
  (tmp_path / "classes.json").write_text(json.dumps([str(i) for i in range(10)]))
  arguments = [
    "import",
    file,
    "--as",
    "resnet18",
    "--layout",
    "torchvision",
    "--verify",
    "--out",
    tmp_path / "out",
  ]
  arguments += ["--classes", tmp_path / "classes.json", "--image-size", "64"]
  assert cli.main([str(a) for a in arguments]) == 0
  line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("verified with torchvision"))
  assert float(line.split("largest difference ")[1].split()[0]) < 1e-5


HOSTILE = """
import os, sys, torch
class Run:
  def __reduce__(self): return os.system, ("touch " + sys.argv[2],)
torch.save({"weight": torch.zeros(3), "run": Run()}, sys.argv[1])
"""
SCRIPTED = """
import sys, torch
torch.jit.script(torch.nn.Linear(2, 2)).save(sys.argv[1])
"""


def refused(capsys, file, tmp_path):
  arguments = ["import", file, "--as", "resnet18", "--layout", "torchvision", "--out", tmp_path / "out"]
  assert cli.main([str(a) for a in arguments]) == 2
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1, lines
  assert not (tmp_path / "out").exists()
  return lines[0]


def test_a_pickle_that_runs_code_runs_none(tmp_path, capsys):
  file, trace = tmp_path / "hostile.pth", tmp_path / "trace"
  python(HOSTILE, file, trace)
  assert "a pickle that imports" in refused(capsys, file, tmp_path)
  assert not trace.exists()


def test_a_torchscript_archive_and_damaged_files_are_named(tmp_path, capsys, resnet):
  python(SCRIPTED, tmp_path / "script.pt")
  assert "TorchScript" in refused(capsys, tmp_path / "script.pt", tmp_path)
  python(SAVE, resnet[0], tmp_path / "whole.pth", "plain")
  whole = (tmp_path / "whole.pth").read_bytes()
  (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
  assert "cannot be read" in refused(capsys, tmp_path / "half.pth", tmp_path)
  python("import sys, torch; torch.save(3, sys.argv[1])", tmp_path / "number.pth")
  assert "holds a int" in refused(capsys, tmp_path / "number.pth", tmp_path)


POSITIONS = """
import sys, numpy as np, torch
from timm.layers import resample_abs_pos_embed
x = torch.from_numpy(np.load(sys.argv[1]))
for size in (24, 7):
  y = resample_abs_pos_embed(x, (size, size), num_prefix_tokens=1)
  np.save(sys.argv[2] + f"{size}.npy", y.numpy())
"""


def test_position_embeddings_are_resized_as_timm_s(tmp_path):
  x = np.random.default_rng(0).standard_normal((1, 197, 24)).astype(np.float32)
  np.save(tmp_path / "x.npy", x)
  python(POSITIONS, tmp_path / "x.npy", tmp_path / "y")
  for size in (24, 7):
    theirs = np.load(tmp_path / f"y{size}.npy")
    np.testing.assert_allclose(resize_positions(x, theirs.shape), theirs, atol=1e-5)


STATED = """
import json, torchvision
found = {}
for ours in %r:
  name = ours.replace("_b", "_b_").replace("_l", "_l_") if ours.startswith("vit") else ours
  t = torchvision.models.get_model_weights(name).DEFAULT.transforms()
  found[ours] = [t.crop_size[0], t.resize_size[0], t.interpolation.value, list(t.mean), list(t.std)]
print(json.dumps(found))
"""


def test_preprocessing_is_what_torchvision_states():
  names = [f"resnet{n}" for n in (18, 34, 50, 101, 152)] + [f"densenet{n}" for n in (121, 161, 169, 201)]
  names += [f"efficientnet_b{n}" for n in range(8)] + [
    "mobilenet_v2",
    "vit_b16",
    "vit_b32",
    "vit_l16",
    "vit_l32",
  ]
  for name, (size, resize, interpolation, mean, std) in json.loads(python(STATED % names)).items():
    ours = LAYOUTS["torchvision"].preprocessing(name)
    assert (ours.size, ours.resize_to, ours.interpolation) == (size, resize, interpolation), name
    assert (list(ours.mean), list(ours.std)) == (mean, std)


EFFICIENTNETS = [f"b{n}" for n in range(8)] + [f"lite{n}" for n in range(5)]
TIMM_STATED = """
import json, timm
found = {}
for ours, theirs in %r:
  c = timm.create_model(theirs).default_cfg
  found[ours] = [c["input_size"][-1], c["crop_pct"], c["interpolation"], list(c["mean"])]
print(json.dumps(found))
"""


def test_preprocessing_is_what_timm_states():
  pairs = [
    (f"efficientnet_{n}", f"tf_efficientnet_{n}") for n in ("b0", "b4", "b7", "lite0", "lite3", "lite4")
  ]
  for name, (size, crop, interpolation, mean) in json.loads(python(TIMM_STATED % pairs)).items():
    ours = LAYOUTS["timm"].preprocessing(name)
    assert (ours.size, round(ours.crop_fraction, 3), ours.interpolation) == (size, crop, interpolation), name
    assert list(ours.mean) == pytest.approx(mean, abs=1e-3)


def test_the_reader_holds_no_torch():
  code = "import sys, jaxtl.pretrained; assert 'torch' not in sys.modules"
  assert subprocess.run([sys.executable, "-c", code]).returncode == 0
  assert readers.TORCH_READER.is_file()
