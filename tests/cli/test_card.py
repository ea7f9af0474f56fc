"""`jaxtl card` as a user types it, and its card in an export."""

import json

import pytest

from jaxtl import cli
from jaxtl.checkpoints import checkpoint
from jaxtl.cli import card as card_command
from jaxtl.host import sealed_json
from jaxtl.measure import network
from tests.cli.test_rank import draw
from tests.inference.saved import NORMALIZE, save


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """Two weights and two folders of photos."""
  folder = tmp_path_factory.mktemp("card")
  save(folder / "one", transforms=[NORMALIZE], size=8)
  save(folder / "other", transforms=[NORMALIZE], size=8, scale=1.5)
  draw(folder / "photos", dict(cat=24, dog=24))
  draw(folder / "more", dict(red=10, green=10, blue=10), seed=1)
  return folder


def run(made, *arguments, code=0, data=("photos",), weight="one"):
  options = ["--batch-size", "16", "--num-devices", "1", *map(str, arguments)]
  targets = [str(made / name) for name in data]
  try:
    found = cli.main(["card", str(made / weight), "--data", *targets, *options])
  except SystemExit as stopped:
    found = stopped.code
  assert found == code


def card_of(made, out, *arguments, **options):
  run(made, "--out", out, *arguments, **options)
  return json.loads((out / "card.json").read_text())


def test_a_card_has_every_target_with_its_controls(made, tmp_path, capsys):
  out = tmp_path / "out"
  options = ("--permutations", "3", "--license", "MIT")
  card = card_of(made, out, *options, data=("photos", "more"))
  assert [target["target"] for target in card["targets"]] == ["photos", "more"]
  assert [target["num_images"] for target in card["targets"]] == [48, 30]
  assert card["license"] == "MIT"
  for target in card["targets"]:
    assert [row["control"] for row in target["controls"]] == [
      "resnet8, untrained",
      "8 x 8 pixels",
      "mean and spread of the channels",
    ]
    assert 0 <= target["scores"]["ridge"]["null_mean"] <= 1
  # The colour of a class is all that there is, so that pixels reach any network.
  assert "the control 8 x 8 pixels is as good" in capsys.readouterr().out
  assert {path.name for path in out.iterdir()} == {
    "card.json",
    "card.md",
    "index.html",
    "request.json",
    "rows",
  }
  assert str(made) not in (out / "card.json").read_text()


def test_the_same_command_reads_what_is_finished_and_another_is_refused(made, tmp_path, monkeypatch, capsys):
  options = ("--permutations", "2", "--no-controls")
  first = card_of(made, tmp_path / "out", *options)
  assert not first["targets"][0]["controls"]
  monkeypatch.setattr(card_command.candidates, "assess", None)
  assert card_of(made, tmp_path / "out", *options) == first
  # The licence is no measurement.
  assert card_of(made, tmp_path / "out", *options, "--license", "MIT")["license"] == "MIT"
  capsys.readouterr()
  for changed in (("--permutations", "3", "--no-controls"), ("--permutations", "2")):
    run(made, "--out", tmp_path / "out", *changed, code=2)
    assert "holds a result of other weights, data or options" in capsys.readouterr().err


def test_curvature_is_taken_from_a_flatness_study_of_these_weights(made, tmp_path, capsys):
  def study(weight):
    folder = tmp_path / "flat"
    (folder / "checkpoint" / "0").mkdir(parents=True, exist_ok=True)
    config = dict(arms=dict(checkpoint={}), seeds=[0])
    (folder / "config.json").write_text(sealed_json.text(config))
    row = dict(
      kind="flatness", arm="checkpoint", seed=0, loss="cross_entropy", lambda_max=3.5, num_examples=64
    )
    row |= dict(weights=network.digest(str(made / weight)))
    lines = sealed_json.lines_text([row, dict(row, kind="layer")])
    (folder / "checkpoint" / "0" / "rows.jsonl").write_text(lines)
    return folder

  options = ("--permutations", "0", "--no-controls")
  card = card_of(made, tmp_path / "out", "--flatness", study("one"), *options)
  [row] = card["curvature"]
  assert row["lambda_max"] == 3.5
  assert row["measured_by"].endswith("/flat")
  run(made, "--flatness", study("other"), *options, code=2)
  assert "has no flatness of" in capsys.readouterr().err
  run(made, "--flatness", tmp_path / "none", *options, code=2)
  assert "no study in" in capsys.readouterr().err


def test_a_card_is_exported_with_the_model_card(made, tmp_path, capsys):
  card_of(made, tmp_path / "out", "--permutations", "0", "--no-controls", "--license", "MIT")
  card = str(tmp_path / "out" / "card.json")

  def export(weight, name, *options, code=0):
    arguments = ["export", str(made / weight), str(tmp_path / name), "--num-devices", "1", *options]
    assert cli.main(arguments) == code
    return capsys.readouterr().err

  export("one", "hub", "--format", "hugging_face", "--card", card)
  text = (tmp_path / "hub" / "README.md").read_text()
  assert text.startswith("---\nlibrary_name:")
  assert "## one" in text
  assert "On photos it reaches ridge" in text
  assert "MIT" in text
  assert (tmp_path / "hub" / "card.json").read_text() == (tmp_path / "out" / "card.json").read_text()
  weights = checkpoint.load(made / "one")
  assert len(weights.classes) == 7
  for refused, message in (
    (("other", "--format", "hugging_face", "--card", card), "is the card of other weights"),
    (("one", "--format", "hugging_face", "--card", str(tmp_path / "none")), "no card at"),
    (("one", "--format", "npz", "--card", card), "--card is for --format hugging_face, not npz"),
  ):
    weight, *options = refused
    assert message in export(weight, "refused", *options, code=2)
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
  ("arguments", "data", "code", "message"),
  [
    ((), ("photos", "photos"), 2, "--data has the same data set twice"),
    ((), ("none",), 3, "there is no"),
    (("--scores", "h"), ("photos",), 2, "no score 'h'"),
    (("--by", "nc1"), ("photos",), 2, "cannot be ordered by 'nc1'"),
    (("--permutations", "-1"), ("photos",), 2, "expected an integer of 0 or more"),
    (("--out", "{made}/photos"), ("photos",), 2, "is not empty"),
  ],
)
def test_bad_input_is_one_line_and_writes_nothing(made, tmp_path, capsys, arguments, data, code, message):
  before = sorted(made.rglob("*"))
  out = () if "--out" in arguments else ("--out", str(tmp_path / "out"))
  run(made, *(text.format(made=made) for text in arguments), *out, data=data, code=code)
  error = capsys.readouterr().err
  assert message in error
  assert len([line for line in error.splitlines() if line.startswith("jaxtl: ")]) == 1
  assert not list(tmp_path.iterdir())
  assert sorted(made.rglob("*")) == before
