"""The runner: cells are kept, killed runs go on, and a folder belongs to one config."""

import dataclasses
import errno
import json

import chex
import numpy as np
import pytest
from PIL import Image

from jaxtl.errors import ConfigError, InputError, StorageError
from jaxtl.host import sealed_json
from jaxtl.report import results
from jaxtl.report import write as report
from jaxtl.runner import config_file, provenance
from jaxtl.runner import run as study
from jaxtl.runner.rows import all_rows
from jaxtl.runner.workdir import claim
from jaxtl.studies.pretrain import study as pretrain
from jaxtl.studies.pretrain import tuning
from jaxtl.studies.transfer import fine_tuning
from jaxtl.studies.transfer.results import is_from_scratch

pytestmark = pytest.mark.slow


def run(config, folder, runtime, **keywords):
  return study.run_study(config, workdir=folder, runtime=runtime(), **keywords)


def of(rows, **wanted):
  return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def test_a_study_measures_everything_and_is_not_run_again(study_config, runtime, tmp_path, monkeypatch):
  rows = run(study_config, tmp_path, runtime)
  assert {row["arm"] for row in rows} == set(study_config["arms"])
  arm = "smoothed_hinge"
  (trained,) = of(rows, arm=arm, kind="pretrain")
  assert trained["steps"] == 6
  assert trained["lambda_max"] > 0
  assert trained["num_examples"] == 48
  assert {row["peak_rate"] for row in of(rows, arm=arm, kind="tune")} == {0.01, 0.1}
  best = max(of(rows, arm=arm, kind="tune"), key=lambda row: row["accuracy"])
  assert trained["peak_rate"] == best["peak_rate"]
  (scratch,) = of(rows, arm="from_scratch", kind="pretrain")
  assert scratch["steps"] == 0
  assert not of(rows, arm="from_scratch", kind="tune")
  for protocol in ("linear_probe", "fine_tune"):
    found = of(rows, kind="transfer", protocol=protocol)
    assert len(found) == 2
    assert all(row["num_classes"] == 2 and row["classes"] == ["a", "b"] for row in found)
    assert all(0 <= row["accuracy"] <= 1 for row in found)
  assert all(row["best_accuracy"] >= row["accuracy"] for row in of(rows, protocol="fine_tune"))
  assert all(row["num_evaluations"] == 2 for row in of(rows, protocol="fine_tune"))

  cell = tmp_path / arm / "0"
  assert json.loads((cell / "classes.json").read_text()) == ["a", "b", "c"]
  for name in ("rows.jsonl", "metrics.jsonl", "checkpoints"):
    assert (cell / name).exists()
  for name in ("config.json", "env.json", "log.txt"):
    assert (tmp_path / name).exists()
  assert all_rows(tmp_path) == rows

  monkeypatch.setattr(pretrain.train, "run", None)  # nothing trains again
  assert run(study_config, tmp_path, runtime) == rows


def test_an_interrupted_study_goes_on_where_it_was(study_config, runtime, tmp_path, monkeypatch):
  study_config["arms"] = dict(cross_entropy=dict())
  whole = run(study_config, tmp_path / "whole", runtime)
  original, calls = pretrain.transfer.run, []

  def interrupted(*arguments, **keywords):
    calls.append(1)
    raise KeyboardInterrupt

  monkeypatch.setattr(pretrain.transfer, "run", interrupted)
  with pytest.raises(KeyboardInterrupt):
    run(study_config, tmp_path / "cut", runtime)
  assert calls
  assert not (tmp_path / "cut" / "cross_entropy" / "0" / "rows.jsonl").exists()
  monkeypatch.setattr(pretrain.transfer, "run", original)
  resumed = run(study_config, tmp_path / "cut", runtime)
  timed = {"seconds", "images_per_second", "data_wait", "session"}
  plain = [[{k: v for k, v in row.items() if k not in timed} for row in rows] for rows in (whole, resumed)]
  assert plain[0] == plain[1]
  assert {row["session"] for row in whole} == {0}
  assert {row["session"] for row in resumed} == {1}  # the one that finished the cell


def test_every_session_is_on_record(study_config, tmp_path):
  claim(tmp_path, study_config, ["jaxtl", "run", "a"])
  first = sealed_json.read(tmp_path / "env.json")
  claim(tmp_path, study_config, ["jaxtl", "run", "nothing left to do"])
  assert sealed_json.read(tmp_path / "env.json") == first
  claim(tmp_path, study_config, ["jaxtl", "run", "b"], data={})
  after = sealed_json.read(tmp_path / "env.json")
  (later,) = after.pop("later")
  assert after == first
  assert later["command"] == ["jaxtl", "run", "b"]
  assert "versions" not in later  # only what differed


def test_the_arms_and_seeds_of_every_session_are_on_record(study_config, runtime, tmp_path):
  config = study_config | dict(seeds=[0, 1])
  config["base"] = config["base"] | dict(transfer=None, tune=None, flatness=None, epochs=0.1)
  config["arms"] = dict(smoothed_hinge={}, plain={})
  workdir = tmp_path / "run"
  study.run_study(config, workdir=workdir, runtime=runtime(), arms=["plain"], seeds=[1])
  assert results.load(workdir).asked == {("plain", 1)}
  study.run_study(config, workdir=workdir, runtime=runtime(), seeds=[1])
  found = results.load(workdir)
  assert found.asked == {("plain", 1), ("smoothed_hinge", 1)} == found.finished
  assert set(found.missing) == {("plain", 0), ("smoothed_hinge", 0)}
  (workdir / "env.json").unlink()  # as an older run has it
  assert len(results.load(workdir).asked) == 4


def test_what_may_change_numbers_between_sessions_is_told(study_config, tmp_path, monkeypatch):
  assert claim(tmp_path, study_config, ["a"], data={}) == []
  assert claim(tmp_path, study_config, ["b"], data={}) == []
  now = provenance.versions()
  monkeypatch.setattr(provenance, "versions", lambda: now | {"jax": "0.0.1"})
  monkeypatch.setattr(provenance, "code_digest", lambda: "other")
  lines = claim(tmp_path, study_config, ["c"], data={})
  assert f"versions.jax: '{now['jax']}' -> '0.0.1'" in lines
  assert any(line.startswith("code: ") for line in lines)


@pytest.mark.parametrize(
  ("place", "value", "message"),
  [
    ("transfer.fine_tune.gradient", dict(make=".optim.sam", rho=-1.0), "rho"),
    (
      "transfer.fine_tune.task.loss",
      dict(fn=".losses.softmax_cross_entropy", label_smoothing=2.0),
      "label_smoothing is 2.0",
    ),
    ("transfer.fine_tune.optimizer.freeze", "no_such_layer", "no_such_layer"),
    ("tune.evaluation", "vall", "tune.evaluation is 'vall'"),
    ("optimizer", dict(make="optax.sgd", learning_rate=0.1), "a choice of rates sets 'peak_rate'"),
    ("transfer.targets.two.test.source.names", "xyz", "only the data has 'x', 'y'"),
  ],
)
def test_what_would_fail_at_the_end_is_refused_before_the_start(
  study_config, runtime, tmp_path, place, value, message
):
  *parents, last = place.split(".")
  node = study_config["base"]
  for key in parents:
    node = node[key]
  node[last] = value
  with pytest.raises(InputError, match=rf"config.arms.smoothed_hinge: .*{message}"):
    run(study_config, tmp_path / "run", runtime)
  assert not (tmp_path / "run").exists()


def test_a_transferred_weight_gets_a_head_of_its_own_and_keeps_its_statistics(
  study_config, runtime, tmp_path
):
  # The target has the classes of the pre-training set, and is another task all the same.
  for part in ("train", "test"):
    study_config["base"]["transfer"]["targets"]["two"][part]["source"]["num_classes"] = 3
  fine_tune = study_config["base"]["transfer"]["fine_tune"]
  del fine_tune["task"]["frozen_stats"]
  _, arms = config_file.parse_config(study_config)
  protocols = arms["smoothed_hinge"].transfer
  target = protocols.targets["two"]
  start = pretrain.train.run(tuning.experiment_of(arms["from_scratch"]), seed=0, runtime=runtime())
  tuned = {}
  for epochs in (0.0, 1.0):
    recipe = dataclasses.replace(protocols.fine_tune, epochs=epochs)
    experiment = fine_tuning.fine_tuning(recipe, target, arms["smoothed_hinge"].model, 96)
    tuned[epochs] = pretrain.train.run(
      experiment, seed=1, runtime=runtime(), start=start.weights, fresh_head=True
    ).weights
  chex.assert_trees_all_equal(tuned[1.0].batch_stats, start.weights.batch_stats)
  before, after = start.weights.params, tuned[0.0].params
  chex.assert_trees_all_equal(before["stem"], after["stem"])
  assert (before["head"]["kernel"] != after["head"]["kernel"]).all()


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("import no_such_module", "cannot be run: ModuleNotFoundError: No module named 'no_such_module'"),
    ("def get_config():\n  return undefined", "cannot be run: NameError: name 'undefined'"),
    ("def get_config(size):\n  return size", r"cannot be run: TypeError: get_config\(\) missing"),
    ("def get_config():\n  return 3", "returns 3; expected a ConfigDict"),
  ],
)
def test_a_config_that_fails_is_told_in_one_line(tmp_path, text, message):
  path = tmp_path / "config.py"
  path.write_text(text)
  with pytest.raises(ConfigError, match=message):
    config_file.load_config(path)


def test_fine_tuning_may_be_as_many_steps_for_every_target(study_config, runtime, tmp_path):
  fine_tune = study_config["base"]["transfer"]["fine_tune"]
  fine_tune |= dict(epochs=None, steps=5)
  study_config["base"] |= dict(epochs=0.0, tune=None, flatness=None)
  study_config["arms"] = dict(scratch=dict())
  assert [row["steps"] for row in of(run(study_config, tmp_path, runtime), protocol="fine_tune")] == [5]
  assert "5 steps" in report.write(tmp_path, tmp_path / "report").read_text()
  fine_tune |= dict(epochs=1.0)
  with pytest.raises(ConfigError, match=r"fine_tune\.epochs is 1\.0 and steps is 5; give one of them"):
    config_file.parse_config(study_config)


def test_a_study_may_count_its_length_in_steps(study_config, runtime, tmp_path):
  study_config["base"] |= dict(epochs=None, steps=3, flatness=None, transfer=None)
  study_config["arms"] = dict(trained=dict(), scratch=dict(steps=0, tune=None))
  rows = run(study_config, tmp_path, runtime)
  assert [row["steps"] for row in of(rows, kind="pretrain")] == [3, 0]
  assert {row["epochs"] for row in of(rows, kind="tune")} == {0.5}
  found = results.load(tmp_path)
  assert [is_from_scratch(found, arm) for arm in ("trained", "scratch")] == [False, True]


@pytest.mark.parametrize("seeds", [[], [-1], [0, 0]])
def test_seeds_are_different_numbers_from_zero(study_config, seeds):
  with pytest.raises(ConfigError, match=r"seeds is .* expected distinct integers of 0 or more"):
    config_file.parse_config(study_config | {"seeds": seeds})


@pytest.mark.parametrize("name", ["config.json", "env.json", "rows.jsonl", "metrics.jsonl"])
def test_a_damaged_folder_is_told_in_one_line(study_config, runtime, tmp_path, name):
  study_config["arms"] = dict(from_scratch=dict(epochs=0.0, tune=None, flatness=None, transfer=None))
  run(study_config, tmp_path, runtime)
  path = tmp_path / name if name.endswith(".json") else tmp_path / "from_scratch" / "0" / name
  path.write_text("{ no JSON\n")
  with pytest.raises(InputError, match=f"{name} is damaged"):
    results.load(tmp_path)


def test_changed_data_are_refused(study_config, runtime, tmp_path, monkeypatch):
  study_config["arms"] = dict(from_scratch=dict(epochs=0.0, tune=None, flatness=None, transfer=None))
  run(study_config, tmp_path, runtime)
  (tmp_path / "from_scratch" / "0" / "rows.jsonl").unlink()
  run(study_config, tmp_path, runtime)  # the same data go on
  (tmp_path / "from_scratch" / "0" / "rows.jsonl").unlink()
  monkeypatch.setattr("jaxtl.data.Source.fingerprint", lambda self: "another")
  with pytest.raises(
    InputError, match=r"has changed since .* fingerprint \w+, and now \d+ with another. Restore"
  ):
    run(study_config, tmp_path, runtime)


def test_a_folder_made_with_another_order_of_the_data_is_refused(study_config, runtime, tmp_path):
  study_config["arms"] = dict(from_scratch=dict(epochs=0.0, tune=None, flatness=None, transfer=None))
  run(study_config, tmp_path, runtime)
  (tmp_path / "from_scratch" / "0" / "rows.jsonl").unlink()
  path = tmp_path / "data.json"
  found = sealed_json.read(path)
  assert {source["order"] for source in found.values()} == {2}
  without = {name: {k: v for k, v in one.items() if k != "order"} for name, one in found.items()}
  path.write_text(json.dumps(without))
  with pytest.raises(
    InputError, match=r"was made with version 1 of the order of the data, .* version 2: its"
  ):
    run(study_config, tmp_path, runtime)
  assert not (tmp_path / "from_scratch" / "0" / "rows.jsonl").exists()


def test_images_that_are_replaced_by_others_of_the_same_size_are_refused(study_config, runtime, tmp_path):
  def write(seed):
    rng = np.random.default_rng(seed)
    for number in range(36):
      file = tmp_path / "set" / "abc"[number % 3] / f"{number}.bmp"
      file.parent.mkdir(parents=True, exist_ok=True)
      Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)

  write(0)
  base, source = study_config["base"], dict(make=".data.from_folder", folder=str(tmp_path / "set"))
  base["data"]["source"] = base["evaluation"]["test"]["source"] = source
  study_config["arms"] = dict(from_scratch=dict(epochs=0.0, tune=None, flatness=None, transfer=None))
  workdir = tmp_path / "run"
  rows = workdir / "from_scratch" / "0" / "rows.jsonl"
  run(study_config, workdir, runtime)
  rows.unlink()
  write(0)  # the same bytes with another time go on
  run(study_config, workdir, runtime)
  rows.unlink()
  write(1)
  with pytest.raises(InputError, match=r"set has changed since .*: 36 examples with .*, and now 36 with"):
    run(study_config, workdir, runtime)


def test_a_changed_config_is_refused_with_the_difference(study_config, tmp_path):
  claim(tmp_path, study_config, [])
  claim(tmp_path, study_config, [])
  changed = study_config | {"base": study_config["base"] | {"epochs": 2.0}}
  with pytest.raises(
    InputError, match=r"made with another config: base.epochs: 1.0 -> 2.0. Go back"
  ) as caught:
    claim(tmp_path, changed, [])
  assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_refused(study_config, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(InputError, match="cannot write to"):
    claim(tmp_path / "file" / "run", study_config, [])


def test_a_full_disk_is_not_the_user_s_mistake(study_config, tmp_path, monkeypatch):
  def full(path, text):
    raise OSError(errno.ENOSPC, "No space left on device", str(path))

  monkeypatch.setattr("jaxtl.runner.workdir.write_atomically", full)
  with pytest.raises(StorageError, match="No space left on device; give another --workdir"):
    claim(tmp_path / "run", study_config, [])


def test_only_the_chosen_arms_and_seeds_run(study_config, runtime, tmp_path):
  study_config["arms"] = {name: dict(epochs=0.0, tune=None, flatness=None, transfer=None) for name in "abc"}
  study_config["seeds"] = [0, 1]
  rows = run(study_config, tmp_path, runtime, arms=["b"], seeds=[1])
  assert [(row["arm"], row["seed"]) for row in rows] == [("b", 1)]
  assert not (tmp_path / "a").exists()
  with pytest.raises(ConfigError, match="no arm 'x'; the config has a, b, c"):
    run(study_config, tmp_path, runtime, arms=["x"])
  with pytest.raises(ConfigError, match="no seed 7; the config has 0, 1"):
    run(study_config, tmp_path, runtime, seeds=[7])


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(study=".studies.pretrain.row"), "did you mean 'rows'?"),
    (dict(study=".tree.lerp"), "which is not a study"),
    (dict(arms={}), "config.arms is empty"),
    (dict(arms=dict(a=dict(epohcs=1))), "config.arms.a has no 'epohcs'; did you mean 'epochs'?"),
    (dict(arms=dict(a=dict(task=dict(loss=dict(fn=".losses.poly"))))), "config.arms.a.task.loss names"),
    (dict(arms=dict(a=dict(transfer=dict(targets=dict(x=dict()))))), "targets.x needs 'train'"),
    (dict(sedes=[1]), "config has no 'sedes'; did you mean 'seeds'?"),
    (dict(seeds=["a"]), "config.seeds.0 is 'a'; expected an integer"),
    (dict(arms=dict(a=dict(tune=dict(peak_rates=[])))), "tune.peak_rates is (); expected at least one rate"),
    (dict(arms=dict(a=dict(transfer=dict(linear_probe=dict(l2=[]))))), "l2 is (); expected penalties"),
    (dict(arms=dict(a=dict(flatness=dict(tolerance=0.0)))), "tolerance is 0.0; expected a number above 0"),
  ],
)
def test_mistakes_show_before_anything_runs(study_config, change, message):
  with pytest.raises(ConfigError) as caught:
    config_file.parse_config(study_config | change)
  assert message in str(caught.value)


def test_a_config_file_is_a_program_with_get_config(tmp_path):
  path = tmp_path / "c.py"
  path.write_text(
    "from ml_collections import ConfigDict\ndef get_config():\n  return ConfigDict(dict(a=dict(b=(1, 2))))"
  )
  assert config_file.load_config(path, ["a.c=3"]) == {"a": {"b": [1, 2], "c": 3}}
  path.write_text("x = 1")
  with pytest.raises(ConfigError, match="has no get_config"):
    config_file.load_config(path)
  with pytest.raises(ConfigError, match="no config at"):
    config_file.load_config(tmp_path / "missing.py")


def test_tuning_needs_an_evaluation_that_exists(study_config, runtime, tmp_path):
  study_config["base"]["tune"]["evaluation"] = "vall"
  with pytest.raises(ConfigError, match=r"tune.evaluation is 'vall'; the study evaluates on test"):
    run(study_config, tmp_path, runtime)


def test_tuning_needs_an_optimiser_with_a_peak_rate(study_config, runtime, tmp_path):
  study_config["base"]["optimizer"] = dict(make="optax.sgd", learning_rate=0.1)
  with pytest.raises(ConfigError, match=r"a choice of rates sets 'peak_rate', which optax.sgd does not have"):
    run(study_config, tmp_path, runtime)


def test_a_rate_that_diverges_loses_and_does_not_stop_the_study(study_config, runtime, tmp_path):
  study_config["base"]["tune"]["peak_rates"] = [1e30, 0.1]
  study_config["base"] |= dict(transfer=None, flatness=None)
  study_config["arms"] = dict(a=dict())
  rows = run(study_config, tmp_path, runtime)
  diverged = of(rows, kind="tune", peak_rate=1e30)[0]
  assert diverged["accuracy"] == 0
  assert "at step" in diverged["diverged"]
  assert of(rows, kind="pretrain")[0]["peak_rate"] == 0.1
