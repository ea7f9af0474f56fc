"""`jaxtl rank` as a user types it: its files, every option, and one line for what is wrong."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from jaxtl import cli
from jaxtl.checkpoints import checkpoint
from jaxtl.cli import rank as rank_command
from jaxtl.cli import rank_tuning
from jaxtl.measure import transfer_scores
from jaxtl.pretrained import exporting
from tests.inference.saved import NORMALIZE, save


def draw(folder, counts, *, seed=0, size=8):
  """Writes class folders of noise whose colour channel tells the class: class -> number of images."""
  rng = np.random.default_rng(seed)
  for channel, (name, count) in enumerate(counts.items()):
    (folder / name).mkdir(parents=True)
    for number in range(count):
      pixels = rng.integers(0, 120, (size, size, 3))
      pixels[:, :, channel % 3] += 100
      Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number:03}.png")
  return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """Two weights and a folder of photos with two splits."""
  folder = tmp_path_factory.mktemp("rank")
  save(folder / "one", transforms=[NORMALIZE], size=8)
  save(folder / "other", transforms=[NORMALIZE], size=8, scale=1.5)
  for number, split in enumerate(("train", "test")):
    draw(folder / "photos" / split, dict(cat=24, dog=24, emu=12), seed=number)
  return folder


def run(made, *arguments, code=0, weights=("one", "other"), data="photos"):
  start = [str(made / name) for name in weights]
  options = ["--data", str(made / data), "--batch-size", "16", "--num-devices", "1", *map(str, arguments)]
  try:
    found = cli.main(["rank", *start, *options])
  except SystemExit as stopped:
    found = stopped.code
  assert found == code


def ranked(made, tmp_path, *arguments, name="out", **options):
  run(made, "--out", tmp_path / name, *arguments, **options)
  return json.loads((tmp_path / name / "ranking.json").read_text())


def test_it_prints_and_writes_the_order(made, tmp_path, capsys):
  found = ranked(made, tmp_path)
  printed = capsys.readouterr().out
  assert found["verdict"] in printed
  assert f"page: {tmp_path / 'out' / 'index.html'}" in printed
  rows = found["rows"]
  assert {row["weight"] for row in rows} == {"one", "other"}
  assert rows[0]["value"] >= rows[1]["value"]
  assert set(rows[0]["scores"]) == set(transfer_scores.DEFAULT)
  assert all("value" in score for score in rows[0]["scores"].values())
  assert found["target"]["split"] == "train"
  assert found["target"]["num_images"] == rows[0]["num_images"] == 60
  assert sum(row["first"] for row in rows) == pytest.approx(1)
  names = {path.name for path in (tmp_path / "out").iterdir()}
  assert names == {"index.html", "order.png", "ranking.csv", "ranking.json", "request.json", "rows"}


def test_the_same_command_reads_what_is_finished_and_another_is_refused(made, tmp_path, capsys, monkeypatch):
  first = ranked(made, tmp_path)

  def compute(*_, **__):
    raise AssertionError("a finished weight was scored again")

  monkeypatch.setattr(rank_command.candidates, "assess", compute)
  assert ranked(made, tmp_path) == first
  capsys.readouterr()
  before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
  for changed in (["--seed", "1"], ["--by", "logme"], ["--max-examples", "30"]):
    run(made, "--out", tmp_path / "out", *changed, code=2)
    assert "holds a result of other weights, data or options" in capsys.readouterr().err
  assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}


def test_a_killed_ranking_continues_with_the_next_weight(made, tmp_path, monkeypatch):
  whole = ranked(made, tmp_path, name="whole")
  original, seen = rank_command.candidates.assess, []

  def assess(given, *rest, **options):
    seen.append(given.name)
    if seen == ["one", "other"]:
      raise KeyboardInterrupt
    return original(given, *rest, **options)

  monkeypatch.setattr(rank_command.candidates, "assess", assess)
  run(made, "--out", tmp_path / "out", code=130)
  found = ranked(made, tmp_path)
  assert seen == ["one", "other", "other"]
  measured = ("seconds", "scoring_seconds", "milliseconds_per_image", "dominated_by", "scores")
  without_times = [
    [{key: value for key, value in row.items() if key not in measured} for row in one["rows"]]
    for one in (whole, found)
  ]
  assert without_times[0] == without_times[1]


def test_every_option_changes_what_it_says(made, tmp_path):
  base = ranked(made, tmp_path, name="base")

  def changed(name, *arguments):
    return ranked(made, tmp_path, *arguments, name=name)

  assert changed("split", "--split", "test")["target"]["split"] == "test"
  few = changed("few", "--max-examples", "20")
  assert few["target"]["num_images"] == 20
  assert (
    changed("other_seed", "--max-examples", "20", "--seed", "1")["target"]["fingerprint"]
    != (few["target"]["fingerprint"])
  )
  scores = changed("scores", "--scores", "knn_1", "transrate")
  assert set(scores["rows"][0]["scores"]) == {"ridge", "knn_1", "transrate"}
  by = changed("by", "--by", "logme")
  assert by["by"] == "logme"
  assert by["resamples"] == transfer_scores.MOMENT_DRAWS
  assert changed("resamples", "--resamples", "50")["resamples"] == 50
  permuted = changed("permuted", "--permutations", "3", "--scores", "ridge", "nc1")["rows"][0]["scores"]
  assert abs(permuted["ridge"]["null_mean"] - 0.4) < 0.3
  assert "null_mean" not in permuted["nc1"]
  assert not base["controls"]
  controls = [row["control"] for row in changed("controls", "--controls")["controls"]]
  assert controls == ["resnet8, untrained", "8 x 8 pixels", "mean and spread of the channels"]
  large = changed("large", "--image-size", "16", "--crop-fraction", "none")["rows"][0]
  assert large["image_size"] == 16
  assert large["multiply_accumulates"] > base["rows"][0]["multiply_accumulates"]


def test_stated_accuracies_are_beside_the_scores(made, tmp_path):
  (tmp_path / "top1.csv").write_text("model,top1\none,60.5\nresnet8,50\n")
  found = ranked(made, tmp_path, "--source-accuracy", tmp_path / "top1.csv")
  accuracies = {row["weight"]: row["source_accuracy"] for row in found["rows"]}
  assert accuracies == pytest.approx({"one": 0.605, "other": 0.5})
  origins = {row["weight"]: row["source_accuracy_from"] for row in found["rows"]}
  assert origins == {"one": "stated for one", "other": "stated for resnet8"}


def test_a_file_of_another_library_is_ranked_like_its_checkpoint(made, tmp_path):
  weights = checkpoint.load(made / "one")
  exporting.export(weights, tmp_path / "resnet8", format="safetensors")
  [file] = (tmp_path / "resnet8").glob("*.safetensors")
  found = ranked(made, tmp_path, "--as", "resnet8", weights=("one", str(file)))
  first, second = found["rows"]
  assert first["digest"] == second["digest"]
  assert first["value"] == pytest.approx(second["value"])
  assert [row["rank"] for row in found["rows"]] == [1, 1]
  assert first["head_classes"] == second["head_classes"] == 7


def test_a_weight_with_broken_features_is_left_out_and_the_others_are_measured(made, tmp_path, capsys):
  weights = checkpoint.load(made / "one")
  for leaf in jax.tree.leaves(weights.params["stem"]):
    leaf[:] = np.nan
  checkpoint.save_weights(weights, tmp_path / "broken")
  found = ranked(made, tmp_path, weights=("one", str(tmp_path / "broken")))
  assert [row["rank"] for row in found["rows"]] == [1, None]
  assert "have a NaN or an infinity" in found["rows"][1]["scores"]["ridge"]["left_out"]
  assert "broken has no place: the features of 60 of 60 images have a NaN" in capsys.readouterr().out
  run(made, weights=(str(tmp_path / "broken"),), code=4)
  assert "no score can be computed for" in capsys.readouterr().err


def test_unreadable_images_are_left_out_within_the_budget(made, tmp_path, capsys):
  folder = draw(tmp_path / "photos", dict(cat=10, dog=10))
  (folder / "cat" / "000.png").write_bytes(b"not an image")
  run(made, data=folder, code=3)
  assert "unreadable" in capsys.readouterr().err
  found = ranked(made, tmp_path, "--max-bad-records", "1", data=folder)
  assert {row["num_images"] for row in found["rows"]} == {19}


@pytest.mark.parametrize(
  ("arguments", "code", "message"),
  [
    (["--scores", "h"], 2, "no score 'h'; expected some of ridge"),
    (["--by", "nc1"], 2, "weights cannot be ordered by 'nc1'"),
    (["--split", "val"], 3, "no split 'val'; expected one of train, test"),
    (["--max-examples", "0"], 2, "expected a positive integer, got '0'"),
    (["--source-accuracy", "{tmp}/none.csv"], 2, "no file"),
    (["--out", "{made}/photos"], 2, "is not empty"),
    (["--data", "{tmp}/none"], 3, "there is no"),
    (["--batch-size", "0"], 2, "expected a positive integer"),
    (["--first", "2"], 2, "--first requires --finetune-budget"),
    (["--finetune-budget", "10steps"], 2, "--finetune-budget requires --out"),
    (["--finetune-budget", "10", "--out", "{tmp}/out"], 2, "expected steps or a time"),
    (["--finetune-budget", "1step", "--out", "{tmp}/out"], 2, "is too small for 2 weights at 3 rates"),
    (
      ["--finetune-budget", "9steps", "--out", "{tmp}/out", "--split", "test"],
      2,
      "--split cannot be combined",
    ),
  ],
)
def test_bad_input_is_one_line_and_writes_nothing(made, tmp_path, capsys, arguments, code, message):
  before = sorted(made.rglob("*"))
  run(made, *(text.format(tmp=tmp_path, made=made) for text in arguments), code=code)
  error = capsys.readouterr().err
  assert message in error
  assert "Traceback" not in error
  assert len([line for line in error.splitlines() if line.startswith("jaxtl: ")]) == 1
  assert not list(tmp_path.iterdir())
  assert sorted(made.rglob("*")) == before


def test_other_bad_weights_and_data_are_one_line(made, tmp_path, capsys):
  def refused(message, *, code=2, **options):
    run(made, "--out", tmp_path / "out", code=code, **options)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

  refused("WEIGHT has the same weight twice", weights=("one", "one"))
  refused("no weight at", weights=("one", "none"))
  refused("single class", code=3, data=draw(tmp_path / "single", dict(cat=5)))
  refused("the name of", weights=("one", "photos/train/cat/000.png"))
  (tmp_path / "splits" / "b").mkdir(parents=True)
  draw(tmp_path / "splits" / "val", dict(cat=3, dog=3))
  draw(tmp_path / "splits" / "test", dict(cat=3, dog=3))
  (tmp_path / "splits" / "b").rmdir()
  refused("expected one named train, or give --split", code=3, data=tmp_path / "splits")


@pytest.mark.slow
def test_a_budget_fine_tunes_the_first_weights(made, tmp_path, capsys):
  options = ("--finetune-budget", "12steps", "--first", "1")
  found = ranked(made, tmp_path, *options)
  out = capsys.readouterr().out
  first = found["rows"][0]["weight"]
  assert {row["weight"] for row in found["fine_tuned"]} == {first}
  [tuned] = [row for row in found["fine_tuned"] if row["protocol"] == "fine_tune"]
  assert tuned["steps"] == 4  # 12 over one weight at three rates
  assert tuned["num_test"] == 60
  assert "test images" in out
  assert f"{first} is the best by" in out
  # It is a checkpoint, and the same command reads it back.
  folder = tmp_path / "out" / "finetune" / first / "0" / "transfer" / "photos" / "fine_tune"
  assert checkpoint.load(folder).classes == ("cat", "dog", "emu")
  again = ranked(made, tmp_path, *options)
  assert again["fine_tuned"] == found["fine_tuned"]
  run(made, "--out", tmp_path / "out", "--finetune-budget", "24steps", "--first", "1", code=2)
  assert "holds a result of other weights, data or options" in capsys.readouterr().err


@pytest.mark.slow
def test_a_budget_that_the_scores_used_up_says_so(made, tmp_path, capsys):
  found = ranked(made, tmp_path, "--finetune-budget", "0.01s")
  assert not found["fine_tuned"]
  assert "Nothing was fine-tuned: the scores took the whole budget." in found["notes"]
  assert "Nothing was fine-tuned" in capsys.readouterr().out


@pytest.mark.slow
def test_a_weight_that_no_longer_fits_is_not_started_and_a_finished_one_is_read(made, tmp_path, monkeypatch):
  options = ("--finetune-budget", "6steps", "--first", "2")
  monkeypatch.setattr(rank_tuning, "_exceeds", lambda *_: True)
  short = ranked(made, tmp_path, *options)
  first, second = (row["weight"] for row in short["rows"])
  assert {row["weight"] for row in short["fine_tuned"]} == {first}
  assert f"{second} was not fine-tuned: what is left of the budget is too short." in short["notes"]
  monkeypatch.undo()
  whole = ranked(made, tmp_path, *options)
  assert {row["weight"] for row in whole["fine_tuned"]} == {first, second}
  monkeypatch.setattr(rank_tuning, "_exceeds", lambda *_: True)
  assert ranked(made, tmp_path, *options)["fine_tuned"] == whole["fine_tuned"]
