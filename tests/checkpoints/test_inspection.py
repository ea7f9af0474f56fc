"""`jaxtl ckpt`: what a checkpoint holds, whether it is whole, and how two differ, from the files alone."""

import dataclasses
import json
import shutil

import pytest

from jaxtl import cli, train
from jaxtl.checkpoints import checkpoint, manifest

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tiny, runtime, tmp_path):
  def make(name, **changes):
    train.run(tiny(evaluation={}, **changes), seed=0, runtime=runtime(), workdir=tmp_path / name)
    return tmp_path / name

  return make


def test_inspect_shows_what_the_manifest_and_the_config_say(run, capsys):
  folder = run("a", epochs=1.0, checkpoint_every=3)
  assert cli.main(["ckpt", "inspect", str(folder)]) == 0
  shown = capsys.readouterr().out
  saved = manifest.read(folder / "checkpoints" / "6")
  assert "step        6\n" in shown
  assert saved.digest in shown
  assert '{"make": ".models.resnet8", "width": 4}' in shown
  assert "classes     3: a, b, c" in shown
  assert "also here   3" in shown
  for path, leaf in saved.leaves.items():
    line = next(line for line in shown.splitlines() if line.startswith(f"{path} "))
    assert leaf.sha256[:16] in line
    assert str(leaf) in line
  numbers = sum(x.size for x in train.load(folder).params["head"].values())
  assert f"{numbers:,}" in shown or numbers < 1000


def test_inspect_of_a_damaged_step_says_that_it_has_not_verified_it(run, capsys):
  folder = run("a", epochs=0.2)
  files = (path for path in (folder / "checkpoints" / "1" / "model" / "d").iterdir())
  file = max(files, key=lambda path: path.stat().st_size)
  file.write_bytes(bytes(file.stat().st_size))
  assert cli.main(["ckpt", "inspect", str(folder)]) == 0
  (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("verified")]
  assert "no: " in line
  assert "jaxtl ckpt verify" in line
  assert cli.main(["ckpt", "verify", str(folder)]) == 5


def test_the_model_that_made_a_checkpoint_is_not_needed(run, tmp_path, capsys):
  weights = train.load(run("a", epochs=0.2))
  elsewhere = {**weights.config, "model": {"make": "nowhere.models.net"}}
  checkpoint.save_weights(dataclasses.replace(weights, config=elsewhere), tmp_path / "b")
  for verb in ("inspect", "verify"):
    assert cli.main(["ckpt", verb, str(tmp_path / "b")]) == 0
  assert "nowhere.models.net" in capsys.readouterr().out


def test_verify_reads_every_step_below_a_folder(run, tmp_path, capsys):
  run("study/a", epochs=1.0, checkpoint_every=3)
  run("study/b", epochs=0.2)
  assert cli.main(["ckpt", "verify", str(tmp_path / "study")]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in lines] == ["whole"] * 3
  # Selected weights are read as well, also those of a run deeper inside.
  selected = tmp_path / "study" / "a" / "selected" / "3"
  shutil.copytree(tmp_path / "study" / "a" / "checkpoints" / "3", selected)
  assert cli.main(["ckpt", "verify", str(tmp_path / "study")]) == 0
  assert str(selected) in capsys.readouterr().out
  shutil.rmtree(selected.parent)
  damaged = next((tmp_path / "study" / "a" / "checkpoints" / "3" / "model").rglob("*_METADATA"))
  damaged.write_bytes(damaged.read_bytes()[:-1])
  assert cli.main(["ckpt", "verify", str(tmp_path / "study")]) == 5
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in lines] == ["damaged", "whole", "whole"]
  assert str(damaged) in lines[0]
  assert cli.main(["ckpt", "verify", str(tmp_path / "study" / "a" / "checkpoints" / "6")]) == 0
  assert damaged.exists()


def test_verify_finds_arrays_that_a_forged_manifest_claims(run, capsys):
  """All files have their digests, but an array is not what its own digest says, or is not there."""
  step = run("a", epochs=0.2) / "checkpoints" / "1"
  saved = manifest.read(step)
  path = next(iter(saved.leaves))
  for leaves, said in (
    ({**saved.leaves, path: manifest.Leaf(saved.leaves[path].shape, "float32", "0" * 64)}, path),
    (
      {**saved.leaves, "model/params/more": saved.leaves[path]},
      "model/params/more was saved but is missing",
    ),
  ):
    (step / manifest.NAME).unlink()
    manifest.write(step, 1, leaves)
    assert cli.main(["ckpt", "verify", str(step)]) == 5
    assert said in capsys.readouterr().out


def test_diff_names_config_and_arrays(run, capsys):
  one = run("one", epochs=0.2)
  again = run("again", epochs=0.2)
  assert cli.main(["ckpt", "diff", str(one), str(again)]) == 0
  assert "equal: config and every array" in capsys.readouterr().out
  faster = run("faster", epochs=0.2, optimizer=dict(make=".optim.sgd", peak_rate=0.2))
  assert cli.main(["ckpt", "diff", str(one), str(faster)]) == 1
  shown = capsys.readouterr().out
  assert "config.experiment.optimizer.peak_rate: 0.1 -> 0.2" in shown
  assert "model/params/head/kernel: differs by " in shown
  wider = run("wider", epochs=0.2, model=dict(make=".models.resnet8", width=8))
  assert cli.main(["ckpt", "diff", str(one), str(wider)]) == 1
  assert "model/params/head/kernel: float32[16, 3] -> float32[32, 3]" in capsys.readouterr().out
  averaged = run("averaged", epochs=0.2, optimizer=dict(make=".optim.adam", peak_rate=0.1))
  assert cli.main(["ckpt", "diff", str(one), str(averaged)]) == 1
  assert "(absent) -> float32" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["inspect", "verify"])
def test_a_folder_without_checkpoints_is_one_line(verb, tmp_path, capsys):
  assert cli.main(["ckpt", verb, str(tmp_path)]) == 2
  assert capsys.readouterr().err.startswith("jaxtl: no checkpoint at")


def test_a_damaged_manifest_is_one_line(run, capsys):
  step = run("a", epochs=0.2) / "checkpoints" / "1"
  plain = json.loads((step / manifest.NAME).read_text())
  plain["step"] = 7
  (step / manifest.NAME).write_text(json.dumps(plain))
  assert cli.main(["ckpt", "inspect", str(step)]) == 5
  assert "its contents do not match its digest" in capsys.readouterr().err


def test_names_of_others_do_not_reach_the_terminal_raw(run, tmp_path, capsys):
  weights = train.load(run("a", epochs=0.2))
  config = {**weights.config, "classes": ["\x1b[31mred", "b", "c"]}
  checkpoint.save_weights(dataclasses.replace(weights, config=config), tmp_path / "b")
  assert cli.main(["ckpt", "inspect", str(tmp_path / "b")]) == 0
  shown = capsys.readouterr().out
  assert "\x1b" not in shown
  assert "\\u001b[31mred" in shown
