"""The commands as a user types them: what they print, and one line with an exit code for what is wrong."""

import dataclasses
import errno
import importlib
import json
import os
import pprint
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from jaxtl import cli
from jaxtl.checkpoints import checkpoint
from jaxtl.cli import evaluate
from jaxtl.cli.options import default_workdir
from jaxtl.errors import StorageError
from jaxtl.host import files
from jaxtl.launching import plan, submission
from tests.small_study import make_study_config, study_config

pytestmark = pytest.mark.slow

__all__ = ["study_config"]  # a fixture
COMMANDS = (
  *("run", "launch", "check", "eval", "import", "export", "report", "data check", "verify-resume", "doctor"),
  *("ckpt inspect", "ckpt verify", "ckpt diff", "predict", "rank", "card"),
)


@pytest.fixture
def config_file(tmp_path):
  return write_config(tmp_path)


def write_config(folder):
  config = make_study_config()
  config["arms"] = dict(cross_entropy=dict(), sam=dict(gradient=dict(make=".optim.sam", rho=0.05)))
  config["base"] |= dict(tune=None, flatness=None, transfer=None)
  path = folder / "study.py"
  path.write_text(f"def get_config():\n  return {pprint.pformat(config)}\n")
  return path


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory):
  """A run, which no test may change."""
  folder = tmp_path_factory.mktemp("finished")
  options = ("--workdir", str(folder / "run"), "--no-report", "--num-devices", "1")
  assert cli.main(["run", str(write_config(folder)), *options]) == 0
  return folder / "run"


@pytest.fixture
def finished(finished_once, config_file, tmp_path):
  """A copy of that run for this test alone, beside its config."""
  shutil.copytree(finished_once, tmp_path / "run")
  return tmp_path / "run"


def refused(capsys, *arguments, code=2) -> str:
  """The one line that a command prints before it gives up: 2 for bad input, 3 for bad data."""
  assert cli.main([str(a) for a in arguments]) == code
  error = capsys.readouterr().err
  lines = [line for line in error.splitlines() if line.startswith("jaxtl: ")]
  assert len(lines) == 1, error
  assert "Traceback" not in error
  return lines[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_every_option(command, capsys):
  with pytest.raises(SystemExit) as stop:
    cli.main([*command.split(), "--help"])
  assert stop.value.code == 0
  text = capsys.readouterr().out
  parser = importlib.import_module("jaxtl.cli.main")._parser()
  for name in command.split():
    parser = next(
      a for a in parser._actions if hasattr(a, "choices") and a.choices and name in a.choices
    ).choices[name]
  for action in parser._actions:
    assert action.help, f"{command} {action.dest} has no help"
    assert (action.option_strings or [action.metavar])[-1] in text


def test_check_prints_the_recipe(config_file, capsys):
  assert cli.main(["check", str(config_file), "base.epochs=3.0", "--num-devices", "1"]) == 0
  text = capsys.readouterr().out
  assert "steps      18 = 3 epochs of 96 images in batches of 16" in text
  assert "gradient   .optim.sam(rho=0.05)" in text
  assert "head/kernel" in text
  assert text.count("activations and scratch") == 1
  steps = ["base.epochs=None", "base.steps=9", "--compile", "none"]
  assert cli.main(["check", str(config_file), *steps, "--num-devices", "1"]) == 0
  assert "steps      9 = 1.5 epochs of 96 images in batches of 16" in capsys.readouterr().out
  assert cli.main(["check", str(config_file), "--compile", "all", "--num-devices", "1"]) == 0
  assert capsys.readouterr().out.count("activations and scratch") == 2
  assert (
    cli.main(["check", str(config_file), "--compile", "none", "--cpu-devices", "8", "--model-devices", "2"])
    == 0
  )
  text = capsys.readouterr().out
  assert "activations and scratch" not in text
  assert "devices    8 = 4 x 2 (data x model), 4 images on each" in text
  sharded = [
    "base.sharding={'make': '.train.fsdp', 'min_size': 64}",
    "--compile",
    "none",
    "--num-devices",
    "8",
  ]
  assert cli.main(["check", str(config_file), *sharded]) == 0
  text = capsys.readouterr().out
  assert "stage3_block1/conv2/kernel (3, 3, 16, 16)" in text
  assert "(3, 3, 16, 2)" in text
  assert cli.main(["check", str(config_file), "--config.base.epochs=3.0", "--print-config"]) == 0
  assert json.loads(capsys.readouterr().out)["base"]["epochs"] == 3.0


@pytest.mark.parametrize(
  ("override", "message"),
  [
    ("base.epohcs=1", "has no 'epohcs'; did you mean 'epochs'?"),
    ("base.epochs=many", "epochs is 'many'; expected a number"),
    ("arms.sam.gradient.roh=1", ".optim.sam has no 'roh'; did you mean 'rho'?"),
    ("base.data.batch_size=12", "data.batch_size is 12, which 8 devices do not divide; write 16"),
    ("base.evaluation.test.batch_size=12", "evaluation.test.batch_size is 12, which 8 devices do not divide"),
    ("base.data.batch_size=0", "config.arms.cross_entropy.data.batch_size is 0; expected at least 1"),
    ("base.epochs=-1.0", "epochs is -1.0; expected 0 or more"),
    ("base.log_every=0", "log_every is 0; expected at least 1"),
    ("arms.samm.epochs=1.0", "no arm 'samm'; did you mean 'sam'"),
    ("nonsense", "has no '='"),
  ],
)
def test_a_mistake_in_the_config_is_one_line(config_file, capsys, override, message):
  assert message in refused(capsys, "check", config_file, override, "--num-devices", "8")


def test_bad_places_are_one_line(config_file, tmp_path, capsys):
  assert "no config at" in refused(capsys, "run", tmp_path / "none.py")
  (tmp_path / "file").write_text("")
  assert "cannot write to" in refused(capsys, "run", config_file, "--workdir", tmp_path / "file" / "x")
  assert "no checkpoint at" in refused(capsys, "eval", tmp_path / "none", "--data", "digits")
  assert "no checkpoint at" in refused(capsys, "export", tmp_path / "none", tmp_path / "out")
  assert "no study in" in refused(capsys, "report", tmp_path)
  assert str(tmp_path / "none") in refused(capsys, "data", "check", tmp_path / "none", code=3)
  assert "num_devices is 99" in refused(capsys, "run", config_file, "--num-devices", "99")


def test_a_file_that_is_no_python_is_one_line(tmp_path, capsys):
  (tmp_path / "broken.py").write_text("def get_config(:\n")
  assert "cannot be run: SyntaxError: invalid syntax" in refused(capsys, "run", tmp_path / "broken.py")


def test_a_run_that_cannot_start_does_not_claim_its_folder(config_file, tmp_path, capsys):
  source = "base.data.source={'make': '.data.from_parquet', 'path': 'nowhere.parquet'}"
  line = refused(
    capsys, "run", config_file, source, "--workdir", tmp_path / "w", "--num-devices", "1", code=3
  )
  assert "--data-dir" in line
  assert not (tmp_path / "w").exists()


def test_a_report_of_nothing_is_refused(finished, tmp_path, capsys):
  empty = tmp_path / "empty"
  empty.mkdir()
  (empty / "config.json").write_bytes((finished / "config.json").read_bytes())
  assert "nothing has been measured" in refused(capsys, "report", empty)
  out = tmp_path / "pages"
  assert cli.main(["report", str(finished), "--out", str(out)]) == 0
  assert (out / "index.html").is_file()
  for metrics in finished.glob("*/*/metrics.jsonl"):
    metrics.unlink()  # a study of linear probes alone has none
  assert cli.main(["report", str(finished), "--out", str(out)]) == 0


def full_disk(monkeypatch):
  """Every file that is opened for writing is on a disk without space."""

  def write(path, *_, **__):
    path.touch()
    raise OSError(errno.ENOSPC, "No space left on device", str(path))

  monkeypatch.setattr(Path, "write_bytes", write)
  monkeypatch.setattr(Path, "write_text", write)


def test_a_disk_that_is_full_under_a_report_or_a_result_ends_with_the_code_of_storage(
  finished, tmp_path, capsys, monkeypatch
):
  with monkeypatch.context() as patch:
    full_disk(patch)
    line = refused(capsys, "report", finished, "--out", tmp_path / "out", code=5)
    assert line.endswith("out: No space left on device; give another --out")
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(StorageError, match="No space left"):
      files.write_folder(tmp_path / "scores", {"x": "1"})
    with pytest.raises(StorageError, match="No space left"):
      submission.write(plan.LaunchPlan((plan.File("x", "1"),), (), ()), tmp_path / "launch")


def test_seeds_are_integers(config_file, capsys):
  with pytest.raises(SystemExit) as stop:
    cli.main(["run", str(config_file), "--seeds", "x"])
  assert stop.value.code == 2
  assert "expected a list of integers, got 'x' (for example 0,1)" in capsys.readouterr().err


def test_a_changed_config_is_refused_and_the_same_one_goes_on(finished, config_file, capsys):
  before = sorted(p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file())
  line = refused(capsys, "run", config_file, "--workdir", finished, "base.epochs=7.0")
  assert "base.epochs: 1.0 -> 7.0" in line
  arguments = ["run", str(config_file), "--workdir", str(finished), "--no-report", "--num-devices", "1"]
  assert cli.main(arguments) == 0
  assert sorted(p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()) == before


def class_folders(root, names, size=8):
  rng = np.random.default_rng(0)
  for number, name in enumerate(names):
    (root / name).mkdir(parents=True)
    for image in range(4):
      pixels = rng.integers(0, 120, (size, size, 3)).astype(np.uint8)
      pixels[..., number] += 100
      Image.fromarray(pixels).save(root / name / f"{image}.png")
  return root


def test_eval_skips_as_many_unreadable_images_as_it_may(finished, tmp_path, capsys):
  folder = class_folders(tmp_path / "images", "abc")
  (folder / "b" / "broken.png").write_bytes(b"no image")
  common = ["--data", folder, "--batch-size", 8, "--num-devices", 1]
  cell = finished / "cross_entropy" / "0"
  line = refused(capsys, "eval", cell, *common, code=3)
  assert "broken.png" in line
  assert cli.main([str(a) for a in ("eval", cell, *common, "--max-bad-records", 1)]) == 0
  captured = capsys.readouterr()
  assert "top1" in captured.out
  assert "broken.png" in captured.err


def test_class_folders_of_any_name_are_trained_on_evaluated_and_checked(tmp_path, study_config, capsys):
  names = ["a\nb", os.fsdecode("ガ表".encode("shift_jis")), "\u30ab\u3099"]
  folder = class_folders(tmp_path / names[1] / "set", names)
  (folder / names[0] / "x.heic").write_bytes(b"x")
  (folder / names[0] / "y").write_bytes(b"x")
  base = study_config["base"]
  for data in (base["data"], base["evaluation"]["test"]):
    data |= dict(source=dict(make=".data.from_folder", folder=str(folder)), batch_size=4)
  study_config["arms"] = dict(one=dict(epochs=0.0, tune=None, flatness=None, transfer=None))
  config, out = tmp_path / "study.py", tmp_path / names[1] / "evaluation"
  config.write_text(f"def get_config():\n  return {pprint.pformat(study_config)}\n")
  told = "set: 2 files are left out: 1 with the suffix .heic, 1 without a suffix (a\\nb/x.heic, a\\nb/y)"
  assert cli.main(["run", str(config), "--workdir", str(tmp_path / "run"), "--num-devices", "1"]) == 0
  assert capsys.readouterr().err.count(told) == 1  # though a training set, a test set and a report use it
  common = ["--data", str(folder), "--batch-size", "4", "--num-devices", "1", "--out", str(out)]
  assert cli.main(["eval", str(tmp_path / "run" / "one" / "0"), *common]) == 0
  assert capsys.readouterr().err.count(told) == 1
  shown = ["a\\nb", "\u30ac", "\\x83K\\x95\\"]
  lines = (out / "predictions.csv").read_text(encoding="utf-8").splitlines()
  assert [line.split(",")[1:3] for line in lines[1::4]] == [[f"{name}/0.png", name] for name in shown]
  assert cli.main(["data", "check", str(folder), "--out", str(out / "pictures")]) == 0
  table = capsys.readouterr().out.splitlines()[1:4]
  assert [line.split() for line in table] == [[str(i), name, "4"] for i, name in enumerate(shown)]


def test_a_single_class_is_refused_whatever_holds_it(finished, config_file, tmp_path, capsys):
  place = tmp_path / "one.npz"
  np.savez(place, train_images=np.zeros((8, 8, 8, 3), np.uint8), train_labels=np.zeros(8, int))
  line = refused(capsys, "eval", finished / "sam" / "0", "--data", place, "--split", "train", code=3)
  assert "has the single class '0'; expected at least 2" in line
  source = f"base.data.source={{'make': '.data.from_npz', 'path': '{place}', 'split': 'train'}}"
  line = refused(capsys, "run", config_file, "--workdir", tmp_path / "other", source, code=3)
  assert "has the single class '0'; expected at least 2" in line


@pytest.mark.parametrize(
  ("option", "value", "message"),
  [
    ("--cpu-devices", "-1", "expected a positive integer, got '-1'"),
    ("--num-devices", "0", "expected a positive integer, got '0'"),
    ("--arms", ",", "expected names separated by commas, got ',' (for example a,b)"),
  ],
)
def test_an_option_that_cannot_be_is_refused(config_file, capsys, option, value, message):
  with pytest.raises(SystemExit) as stop:
    cli.main(["run", str(config_file), f"{option}={value}"])
  assert stop.value.code == 2
  assert message in capsys.readouterr().err


def test_a_report_opens_a_source_of_another_package_only_when_told(finished, capsys):
  for flags, found in (([], "pass --trust"), (["--trust"], "training_images.png")):
    assert cli.main(["report", str(finished), *flags]) == 0
    assert found in (finished / "report" / "report.md").read_text()


def test_data_dir_is_where_relative_sources_are_looked_for(finished, tmp_path, capsys):
  class_folders(tmp_path / "below" / "images", "abc")
  cell = finished / "cross_entropy" / "0"
  common = ["eval", cell, "--data", "images", "--batch-size", 8, "--num-devices", 1]
  assert "there is no images" in refused(capsys, *common, code=3)
  assert cli.main([str(a) for a in (*common, "--data-dir", tmp_path / "below")]) == 0


def test_eval_measures_a_checkpoint_on_images_of_the_same_classes(finished, tmp_path, capsys):
  folder = class_folders(tmp_path / "images", "abc")
  out = tmp_path / "evaluation"
  cell = finished / "cross_entropy" / "0"
  arguments = ["eval", cell, "--data", folder, "--batch-size", "8", "--out", out, "--num-devices", "1"]
  assert cli.main([str(a) for a in arguments]) == 0
  assert "top1" in capsys.readouterr().out
  numbers = json.loads((out / "scores.json").read_text())
  assert numbers["num_examples"] == 12
  assert 0 <= numbers["top1"] <= 1
  other = class_folders(tmp_path / "other", "abd")
  line = refused(capsys, "eval", cell, "--data", other, code=3)
  assert "only the data has 'd'; only the model has 'c'" in line
  assert "no split 'x'" in refused(capsys, "eval", cell, "--data", folder, "--split", "x", code=3)


def test_eval_measures_flatness_in_one_line_and_goes_on_where_it_stopped(finished, tmp_path, capsys):
  folder = class_folders(tmp_path / "images", "abc")
  out = tmp_path / "flat"
  cell = finished / "sam" / "0"
  common = ["--flatness", "--num-examples", 6, "--batch-size", 8, "--num-devices", 1]
  arguments = [str(a) for a in ("eval", cell, "--data", folder, *common, "--out", out)]
  assert cli.main(arguments) == 0
  first = capsys.readouterr().out
  for name in ("lambda_max", "residual", "trace", "effective_dimension", "sam_sharpness", "block head"):
    assert name in first
  assert "num_examples" in first
  assert " 6\n" in first
  assert "Curvature of the cross-entropy" in (out / "report" / "index.html").read_text(encoding="utf-8")
  (out / "report" / "index.html").unlink()
  written = (out / "checkpoint" / "0" / "cross_entropy.json").stat().st_mtime_ns
  assert cli.main(arguments) == 0
  assert capsys.readouterr().out == first
  assert (out / "checkpoint" / "0" / "cross_entropy.json").stat().st_mtime_ns == written
  assert "made with another config" in refused(capsys, *arguments, "--num-examples", 9)
  line = refused(capsys, *arguments[:-1], class_folders(tmp_path / "other", "abc"))
  assert "is not empty" in line
  other = class_folders(tmp_path / "others", "abd")
  assert "only the data has 'd'" in refused(capsys, "eval", cell, "--data", other, *common, code=3)
  assert "--subset cannot be combined" in refused(capsys, "eval", cell, "--data", folder, *common, "--subset")
  line = refused(capsys, "eval", cell, "--data", folder, "--num-examples", 6, "--num-devices", 1)
  assert "--num-examples requires --flatness or --layers" in line


@pytest.mark.parametrize("measure", ["--flatness", "--layers"])
def test_eval_speaks_of_the_options_that_were_typed(finished, tmp_path, capsys, measure):
  folder = class_folders(tmp_path / "images", "abc")
  out = tmp_path / "out"
  common = ["eval", finished / "sam" / "0", measure, "--data", folder, "--num-devices"]

  def said(*arguments, code=2):
    line = refused(capsys, *common, *arguments, code=code)
    assert not re.search(r"config\.arms|workdir|base\.|flatness\.|diagnosis\.|checkpoint/0", line), line
    return line

  assert "jaxtl: --batch-size is 12, which 8 devices do not divide; write 16" in said(8, "--batch-size", 12)
  (tmp_path / "file").write_text("")
  assert "is a file" in said(1, "--out", tmp_path / "file" / "x")
  others = class_folders(tmp_path / "others", "abd")
  line = said(1, "--data", others, code=3)
  assert line.startswith("jaxtl: --data has other classes than the model")
  study = {"--flatness": "flatness", "--layers": "diagnosis"}[measure]
  base = {study: {"num_examples": 5}}
  out.mkdir()
  path = {"flatness": ".studies.flatness.rows", "diagnosis": ".studies.layers.diagnosis.rows"}[study]
  (out / "config.json").write_text(json.dumps({"study": path, "base": base}))
  line = said(1, "--num-examples", 6, "--out", out)
  assert "made with another config: --num-examples: 5 -> 6" in line
  assert "give another --out" in line


@pytest.mark.parametrize("measure", ["--flatness", "--layers"])
def test_a_checkpoint_that_is_not_finite_leaves_nothing_behind(finished, tmp_path, capsys, measure):
  weights = checkpoint.load(finished / "sam" / "0")
  params = jax.tree.map(np.array, weights.params)
  params["head"]["kernel"][0, 0] = np.nan
  checkpoint.save_weights(dataclasses.replace(weights, params=params), tmp_path / "bad")
  common = [
    "--data",
    class_folders(tmp_path / "images", "abc"),
    "--num-devices",
    1,
    "--out",
    tmp_path / "out",
  ]
  line = refused(capsys, "eval", tmp_path / "bad", measure, *common)
  assert "the parameter 'head/kernel' is not finite" in line
  assert not (tmp_path / "out").exists()


def test_what_eval_rewords_is_no_part_of_a_path():
  said = "base.start: 'runs/flatness.data' -> 'runs/base.start'; base.diagnosis.cross_fit: True -> False"
  assert evaluate._as_typed(said) == (
    "CHECKPOINT: 'runs/flatness.data' -> 'runs/base.start'; --cross-fit: True -> False"
  )


@pytest.mark.parametrize(("asked", "noted"), [(5000, True), (12, False), (6, False)])
def test_eval_says_that_fewer_images_are_there_than_were_asked_for(finished, tmp_path, capsys, asked, noted):
  folder = class_folders(tmp_path / "images", "abc")
  only = ["--layers", "--groups", "head", "--batch-size", "8", "--num-devices", "1"]
  arguments = ["eval", str(finished / "sam" / "0"), "--data", str(folder), *only]
  assert cli.main([*arguments, "--num-examples", str(asked)]) == 0
  out, error = capsys.readouterr()
  notes = [line for line in error.splitlines() if "--num-examples" in line]
  assert len(notes) == noted
  assert not noted or ("5000" in notes[0] and "has only 12: all are measured" in notes[0])
  assert re.search(rf"num_examples +{min(asked, 12)}\n", out)


def test_eval_diagnoses_layers_in_one_line(finished, tmp_path, capsys):
  folder = class_folders(tmp_path / "images", "abc")
  cell, out = finished / "sam" / "0", tmp_path / "layers"
  common = ["--data", folder, "--layers", "--num-examples", 6, "--batch-size", 8, "--num-devices", 1]

  def table(*options):
    assert cli.main([str(a) for a in ("eval", cell, *common, *options)]) == 0
    text, lines = capsys.readouterr().out.split("\n\n")
    facts = dict(line.split(maxsplit=1) for line in text.splitlines())
    return facts, {line.split()[0]: line.split()[1:] for line in lines.splitlines()}

  facts, layers = table("--out", out)
  assert (facts["num_examples"], facts["seed_of_images"], facts["cross_fit"]) == ("6", "0", "False")
  assert list(layers)[:-1] == ["layer", "stem", "stage1_block1", "stage2_block1", "stage3_block1", "head"]
  assert list(layers)[-1] == "report:"
  page = (out / "report" / "index.html").read_text(encoding="utf-8")
  assert "Room for improvement in each layer" in page
  assert (out / "report" / "layers_curvature.png").is_file()
  for options, name, value in (
    (("--seed", 1), "seed_of_images", "1"),
    (("--num-examples", 4), "num_examples", "4"),
    (("--cross-fit",), "cross_fit", "True"),
    (("--refine-steps", 1), "refine_steps", "1"),
    (("--choose-by", "kappa_rel"), "choose_by", "kappa_rel"),
  ):
    assert table(*options)[0][name] == value
  assert list(table("--groups", "stage1.+", "--groups", "head")[1]) == ["layer", "stage1_block1", "head"]
  assert "H" in table("--groups", "head", "--cross-check")[1]["layer"]
  line = refused(capsys, "eval", cell, *common, "--groups", "haed")
  assert line.startswith("jaxtl: the layer 'haed' matches no block of resnet8; did you mean 'head'? ")
  assert line.endswith("The blocks are stem, stage1_block1, stage2_block1, stage3_block1, head")
  assert "one of them" in refused(capsys, "eval", cell, *common, "--flatness")
  assert "--subset cannot be combined with --layers" in refused(capsys, "eval", cell, *common, "--subset")
  plain = ("eval", cell, "--data", folder, "--num-devices", 1)
  for option in (
    ("--seed", 0),
    ("--cross-fit",),
    ("--refine-steps", 0),
    ("--groups", "head"),
    ("--cross-check",),
  ):
    assert f"{option[0]} requires --layers" in refused(capsys, *plain, *option)
    assert f"{option[0]} requires --layers" in refused(capsys, *plain, "--flatness", *option)


def test_a_hostile_checkpoint_is_not_imported(finished, tmp_path, capsys, monkeypatch):
  hostile = checkpoint.load(finished / "cross_entropy" / "0")
  hostile.config["model"] = {"make": "os.getcwd"}
  monkeypatch.setattr(checkpoint, "load", lambda path: hostile)
  line = refused(capsys, "eval", finished, "--data", "digits")
  assert "pass --trust" in line


@pytest.mark.parametrize("form", ["orbax", "safetensors", "npz"])
def test_exports_hold_the_weights_and_what_they_need(finished, tmp_path, form, capsys):
  out = tmp_path / "out"
  cell = finished / "sam" / "0"
  assert cli.main(["export", str(cell), str(out), "--format", form]) == 0
  weights = checkpoint.load(cell)
  kernel = weights.params["head"]["kernel"]
  if form == "safetensors":
    found = load_file(out / "model.safetensors")["params/head/kernel"]
  elif form == "npz":
    found = np.load(out / "model.npz")["params/head/kernel"]
  else:
    import orbax.checkpoint as ocp

    found = ocp.StandardCheckpointer().restore((out / "model").absolute())["params"]["head"]["kernel"]
  np.testing.assert_array_equal(found, kernel)
  assert json.loads((out / "classes.json").read_text()) == ["a", "b", "c"]
  assert json.loads((out / "config.json").read_text())["model"]["make"] == ".models.resnet8"
  assert "exists already" in refused(capsys, "export", cell, out)


def test_only_the_chosen_arms_and_seeds_run_and_overrides_reach_them(config_file, tmp_path, capsys):
  workdir = tmp_path / "some"
  arguments = ["run", str(config_file), "--workdir", str(workdir), "--arms", "sam", "--seeds", "0"]
  assert cli.main([*arguments, "arms.sam.epochs=0.2", "--no-report", "--cpu-devices", "8"]) == 0
  assert [path.name for path in workdir.iterdir() if path.is_dir()] == ["sam"]
  assert checkpoint.load(workdir / "sam" / "0").config["step"] == 1
  assert "no arm 'x'" in refused(capsys, *arguments[:4], "--arms", "x", "arms.sam.epochs=0.2")


def test_images_of_another_size_are_refused_by_eval(finished, tmp_path, capsys):
  folder = class_folders(tmp_path / "large", "abc", size=12)
  line = refused(capsys, "eval", finished / "sam" / "0", "--data", folder, code=3)
  assert (
    "gives images of 12 x 12, and the checkpoint's preprocessing does not resize them to its 8 x 8" in line
  )


def test_a_damaged_config_in_the_folder_is_one_line(finished, config_file, capsys):
  (finished / "config.json").write_text("{")
  assert "is damaged" in refused(capsys, "run", config_file, "--workdir", finished)


def test_a_file_that_cannot_be_written_is_one_line(finished, tmp_path, capsys):
  folder = class_folders(tmp_path / "images", "abc")
  (tmp_path / "file").write_text("")
  line = refused(
    capsys, "eval", finished / "sam" / "0", "--data", folder, "--out", tmp_path / "file" / "x.json"
  )
  assert "cannot write to" in line
  assert "file is a file" in line


def test_the_default_folder_tells_configs_of_one_name_apart():
  assert default_workdir(Path("configs/pretrain/tiny.py")) == Path("runs/pretrain/tiny")
  assert default_workdir(Path("/x/configs/quickstart.py")) == Path("runs/quickstart")
  assert default_workdir(Path("mine.py")) == Path("runs/mine")


def test_a_loss_that_is_not_finite_is_exit_code_4(config_file, tmp_path, capsys):
  arguments = ["run", str(config_file), "--workdir", str(tmp_path / "w"), "--num-devices", "1"]
  rate = ["base.optimizer.peak_rate=1e30", "base.optimizer.schedule={'make': '.optim.constant'}"]
  assert cli.main([*arguments, *rate]) == 4
  assert "cross_entropy/0: the " in capsys.readouterr().err


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (["report", ".", "x=1"], "'x=1' is not an argument of jaxtl report; see jaxtl report --help"),
    (
      ["eval", "c", "--data", "d", "--falt"],
      "'--falt' is not an argument of jaxtl eval; see jaxtl eval --help",
    ),
    (["fly"], "COMMAND: invalid choice: 'fly'"),
    (["ckpt", "fly"], "COMMAND: invalid choice: 'fly'"),
    ([], "the following arguments are required: COMMAND; see jaxtl --help"),
    (["eval", "c"], "the following arguments are required: --data; see jaxtl eval --help"),
    (["ckpt", "diff", "a"], "the following arguments are required: OTHER; see jaxtl ckpt diff --help"),
    (["run", "c.py", "--workdir"], "--workdir: expected one argument"),
    (["export", "c", "o", "--format", "x\ny"], "--format: invalid choice: 'x\\ny'"),
    (["report", ".", "x\ny"], "'x\\ny' is not an argument of jaxtl report"),
    (["launch", "moon", "c.py"], "TARGET: invalid choice: 'moon'"),
    (
      ["launch", "slurm", "c.py", "--nodes", "0"],
      "--nodes: expected a positive integer, got '0' (for example 8)",
    ),
    (
      ["eval", "c", "--data", "d", "--num-examples", "0"],
      "--num-examples: expected a positive integer, got '0'",
    ),
    (["eval", "c", "--data", "d", "--groups", "("], "--groups: '(' is not a regular expression (missing )"),
    (["eval", "c", "--data", "d", "--max-bad-records", "-1"], "--max-bad-records: "),
    (["eval", "c", "--data", "d", "--crop-fraction", "x"], "--crop-fraction: 'x' is neither a number nor"),
    (["run", "c.py", "--hang-limit", "-3"], "--hang-limit: "),
    (
      ["run", "c.py", "--process-id", "x"],
      "--process-id: expected an integer of 0 or more, got 'x' (for example 2)",
    ),
  ],
)
def test_a_command_line_that_cannot_be_is_one_line_and_exit_code_2(capsys, arguments, said):
  with pytest.raises(SystemExit) as stop:
    cli.main(arguments)
  assert stop.value.code == 2
  out, error = capsys.readouterr()
  (line,) = error.splitlines()
  assert not out
  assert line.startswith(f"jaxtl: {said}")
  assert re.search(r"; see jaxtl( \w+)* --help$", line)


def test_the_version_is_the_packages(capsys):
  with pytest.raises(SystemExit):
    cli.main(["--version"])
  assert capsys.readouterr().out.strip().count(".") == 2


def run_one_arm(config_file, workdir, *overrides):
  only = ["--arms", "cross_entropy", "--no-report", "--num-devices", "1", "base.evaluation={}"]
  return cli.main(["run", str(config_file), "--workdir", str(workdir), *only, *overrides])


@pytest.mark.parametrize(
  ("overrides", "code", "said"),
  [([], 0, "done"), (["base.optimizer.peak_rate=1e30"], 4, "cross_entropy/0: the loss is nan at step")],
)
def test_how_a_run_ended_is_its_exit_code_and_on_record(config_file, tmp_path, overrides, code, said, capsys):
  assert run_one_arm(config_file, tmp_path / "run", *overrides) == code
  found = json.loads((tmp_path / "run" / "exit_reason.json").read_text())
  assert found["code"] == code
  assert said in found["reason"]
  assert said in capsys.readouterr().err or code == 0


def test_unreadable_images_are_listed_and_beyond_the_budget_end_the_run(config_file, tmp_path, capsys):
  corrupt = "base.data.source.make=tests.train.test_experiment.corrupt"
  assert run_one_arm(config_file, tmp_path / "run", corrupt) == 3
  assert "1 unreadable image, 0 allowed: corrupt: example 5" in capsys.readouterr().err
  assert not (tmp_path / "run").exists()
  assert run_one_arm(config_file, tmp_path / "run", corrupt, "base.data.max_bad_records=1") == 0
  (line,) = (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()
  assert json.loads(line)["index"] == 5


@pytest.mark.parametrize("kind", ["flipped", "cut off", "no manifest"])
def test_a_damaged_checkpoint_ends_every_command_with_the_exit_code_of_storage(
  finished, tmp_path, capsys, kind
):
  cell = finished / "sam" / "0"
  (step,) = (cell / "checkpoints").iterdir()
  file = step / "manifest.json"
  if kind == "no manifest":
    file.unlink()
  else:
    file = max((step / "model" / "d").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content if kind == "flipped" else content[:-1])
  folder = class_folders(tmp_path / "images", "abc")
  common = ["eval", cell, "--data", folder, "--num-devices", 1]
  for arguments in (
    common,
    [*common, "--flatness"],
    [*common, "--layers"],
    ["export", cell, tmp_path / "out"],
    ["ckpt", "diff", cell, finished / "cross_entropy" / "0"],
  ):
    assert str(file) in refused(capsys, *arguments, code=5)
  assert cli.main(["ckpt", "verify", str(cell)]) == 5
  assert str(file) in capsys.readouterr().out
  assert step.is_dir()


def test_a_run_that_starts_from_a_damaged_checkpoint_ends_with_the_exit_code_of_storage(
  finished, config_file, tmp_path, capsys
):
  (finished / "sam" / "0" / "checkpoints" / "6" / "manifest.json").write_text("{}")
  start = f"base.start={finished / 'sam' / '0'}"
  arguments = ["run", config_file, start, "--workdir", tmp_path / "other", "--num-devices", 1]
  assert "manifest.json is damaged" in refused(capsys, *arguments, code=5)


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_anew(config_file, finished, capsys):
  for rows in finished.glob("*/*/rows.jsonl"):
    rows.unlink()
  for path in finished.glob("cross_entropy/0/checkpoints/*/manifest.json"):
    path.write_text("{}")
  arguments = ["run", str(config_file), "--workdir", str(finished), "--no-report", "--num-devices", "1"]
  assert cli.main(arguments) == 5
  assert "has no intact step" in capsys.readouterr().err
  assert json.loads((finished / "exit_reason.json").read_text())["code"] == 5
  assert list(finished.glob("cross_entropy/0/checkpoints/*.damaged"))
