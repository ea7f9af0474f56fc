"""A method in parts: diagnosed again between them, and each on the layers that its own diagnosis chooses."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxtl.checkpoints import checkpoint
from jaxtl.config import parse
from jaxtl.errors import ConfigError
from jaxtl.measure import layer_diagnosis
from jaxtl.report import write as report
from jaxtl.runner import describe
from jaxtl.studies.layers import stages
from jaxtl.studies.layers import study as layers
from jaxtl.studies.layers import tables as layers_tables
from jaxtl.studies.layers.study import Layers
from tests.studies.layers.test_study import base, config_with, run, scene_of

pytestmark = pytest.mark.slow

__all__ = ["base"]  # a fixture

# What of a row depends on how fast the machine is, and on how often the study was begun.
TIMED = ("seconds_per_epoch", "session")


def methods(**every):
  """The diagnosed method alone, once for each."""
  pol = dict(make=".optim.pol", update="stage3_block1")
  return {name: dict(gradient=pol, diagnosed=True, rediagnose_every=n) for name, n in every.items()}


@pytest.fixture
def turning(monkeypatch):
  """Every diagnosis after the first one chooses other layers than it would; the calls, as the networks."""
  whole, seen = layer_diagnosis.diagnose, []

  def diagnose(plan, model, params, *given):
    seen.append(params)
    found = whole(plan, model, params, *given)
    if len(seen) == 1:
      return found
    return [row | {"perturb": row["layer"] == "head", "update": row["layer"] == "stem"} for row in found]

  monkeypatch.setattr(layer_diagnosis, "diagnose", diagnose)
  return seen


def untimed(row):
  return {key: value for key, value in row.items() if key not in TIMED}


@pytest.mark.parametrize(
  ("epochs", "every", "expected"),
  [
    (10.0, None, [100]),
    (10.0, 10.0, [100]),
    (10.0, 12.0, [100]),
    (10.0, 5.0, [50, 100]),
    (10.0, 4.0, [40, 80, 100]),
    (0.9, 0.3, [3, 6, 9]),
    (0.3, 0.01, [1, 2, 3]),  # a part is at least a step
  ],
)
def test_parts_end_where_the_epochs_say(epochs, every, expected):
  assert stages.ends(epochs, every, num_examples=80, batch_size=8) == expected


def test_parts_have_as_many_steps_as_the_whole(base, runtime, tmp_path):
  """Though no part is a whole number of steps."""
  scene = scene_of(base, runtime, tmp_path, epochs=2.0)
  whole = scene.settings(scene.study.methods["chosen"])
  assert stages.split(whole, None, num_examples=100) == [whole]
  parts = stages.split(whole, 0.6, num_examples=100)
  assert [part.steps for part in parts] == [4, 4, 3, 1]
  assert sum(part.steps for part in parts) == round(2.0 * 100 / 16)


def test_one_part_is_the_method_without_the_option(base, runtime, tmp_path):
  scene = scene_of(base, runtime, tmp_path, methods=methods(absent=None, one=2.0))
  absent, one = (untimed(scene.go_on(name)) for name in ("absent", "one"))
  assert "parts" not in absent
  (part,) = one.pop("parts")
  assert (part["epochs"], part["steps"]) == (2.0, 12)
  assert one | {"method": "absent"} == absent
  folder = tmp_path / "run" / "post_training"
  ends = [checkpoint.load(folder / name) for name in ("absent", "one")]
  assert jax.tree.all(jax.tree.map(np.array_equal, ends[0].params, ends[1].params))


def test_each_part_goes_on_from_the_last_and_works_on_what_its_own_diagnosis_chooses(
  base, runtime, tmp_path, turning
):
  scene = scene_of(base, runtime, tmp_path, best=False, methods=methods(again=1.0))
  row = scene.go_on("again")
  assert len(turning) == 2
  folder = tmp_path / "run" / "post_training" / "again"
  first, second = (checkpoint.load(folder / name) for name in ("part1", "part2"))
  equal = lambda a, b: jax.tree.all(jax.tree.map(np.array_equal, a, b))  # noqa: E731
  assert equal(turning[0], scene.base.params)
  assert equal(turning[1], first.params)  # the network as it is then
  moved = {block for block in first.params if not equal(first.params[block], second.params[block])}
  assert moved == {"stem"}
  own = layer_diagnosis.chosen(scene.diagnosed())
  names = [(part["perturb"], part["update"]) for part in row["parts"]]
  assert names == [([own[0]], [own[1]]), (["head"], ["stem"])]
  assert (row["perturb"], row["update"]) == (["head"], ["stem"])
  assert [(part["epochs"], part["steps"]) for part in row["parts"]] == [(1.0, 6)] * 2
  assert (row["epochs"], row["steps"], row["kept_step"]) == (2.0, 12, 12)
  assert row["seconds_per_epoch"] > 0
  assert row["step_bytes"] > 0


def test_a_part_reads_other_batches_than_the_one_before(base, runtime, tmp_path, monkeypatch):
  seeds = []
  whole = stages.post_train
  monkeypatch.setattr(
    stages,
    "post_train",
    lambda *given, seed, **more: seeds.append(seed) or whole(*given, seed=seed, **more),
  )
  scene = scene_of(base, runtime, tmp_path, methods=methods(again=1.0))
  scene.go_on("again")
  assert seeds[0] == 0
  assert len(set(seeds)) == 2
  streams = [runtime().train_batches(scene.study.data, seed=seed, start_step=0) for seed in seeds]
  one, other = (next(iter(stream))["image"] for stream in streams)
  assert not np.array_equal(one, other)


def test_the_best_step_is_counted_over_all_parts(base, runtime, tmp_path):
  scene = scene_of(base, runtime, tmp_path, methods=methods(again=1.0))
  parts, ended = scene._trained("again")
  assert ended == ""
  assert [(part.begin, part.end) for part in parts] == [(0, 6), (6, 12)]
  losses = {step: loss for part in parts for step, loss in part.losses().items()}
  assert set(losses) == {6, 12}
  row = scene.go_on("again")
  losses[0] = scene.report("base", scene.base)["validation_loss"]
  best = min(losses, key=losses.get)
  assert best > 0, "a case that tells nothing of parts"
  assert row["kept_step"] == best
  assert row["validation_loss"] == pytest.approx(losses[best], rel=1e-5)
  assert untimed(row) == untimed(scene.go_on("again"))


def test_a_study_killed_in_its_second_part_ends_as_one_that_was_not(base, runtime, tmp_path, monkeypatch):
  config = dict(methods=methods(again=1.0), epochs=2.0)
  expected = run(base, runtime, tmp_path / "whole", **config)
  whole = stages.post_train

  def killed(*given, workdir, **more):
    if workdir.name == "part2":
      raise KeyboardInterrupt
    return whole(*given, workdir=workdir, **more)

  monkeypatch.setattr(stages, "post_train", killed)
  with pytest.raises(KeyboardInterrupt):
    run(base, runtime, tmp_path / "cut", **config)
  folder = tmp_path / "cut" / "a" / "0" / "post_training" / "again"
  assert (folder / "part1" / "checkpoints").is_dir()
  assert json.loads((folder / "part2" / "diagnosis.json").read_text())["rows"]
  monkeypatch.setattr(stages, "post_train", whole)
  monkeypatch.setattr(layer_diagnosis, "diagnose", None)  # both are there
  found = run(base, runtime, tmp_path / "cut", **config)
  assert [untimed(row) for row in found] == [untimed(row) for row in expected]


def test_parts_end_where_a_diagnosis_chooses_nothing_and_the_report_says_so(
  base, runtime, tmp_path, monkeypatch
):
  whole, calls = layer_diagnosis.diagnose, []

  def diagnose(*given):
    calls.append(given)
    return [row | {"update": row["update"] and len(calls) < 2} for row in whole(*given)]

  monkeypatch.setattr(layer_diagnosis, "diagnose", diagnose)
  rows = run(base, runtime, tmp_path / "run", methods=methods(again=0.5))
  (row,) = [row for row in rows if row.get("method") == "again"]
  assert row["ended"] == "the diagnosis chooses no layer to update"
  assert (row["epochs"], row["steps"], len(row["parts"])) == (0.5, 3, 1)
  report.write(tmp_path / "run", tmp_path / "out")
  text = (tmp_path / "out" / "report.md").read_text()
  assert "again of a, seed 0, after 0.5 epochs: the diagnosis chooses no layer to update." in text


def test_the_appendix_shows_the_layers_of_all_parts():
  row = dict(
    kind="post_training", arm="a", seed=0, method="again", steps=12, kept_step=6, validation_loss=0.5
  )
  parts = [dict(perturb=["head"], update=["stem"]), dict(perturb=["stem"], update=["x", "y"])]
  results = SimpleNamespace(arms=["a"], rows=[row | dict(perturb=["stem"], update=["x", "y"], parts=parts)])
  (grid,) = layers_tables.behind(results)
  assert grid.rows[0][2:4] == ["head → stem", "stem → x, y"]
  assert "→" in grid.note
  results.rows = [row | dict(perturb=["head"], update=None)]
  (grid,) = layers_tables.behind(results)
  assert grid.rows[0][2:4] == ["head", layers_tables.ABSENT]
  assert "→" not in grid.note


def test_the_speed_is_that_of_an_average_epoch():
  part = lambda speed, steps: SimpleNamespace(  # noqa: E731
    trained=SimpleNamespace(median=lambda name: speed, total_steps=steps)
  )
  given = [part(10.0, 3), part(50.0, 1), part(float("nan"), 4)]
  assert stages.seconds_per_epoch(given, num_examples=100) == pytest.approx((3 * 10 + 1 * 2) / 4)
  assert np.isnan(stages.seconds_per_epoch(given[2:], num_examples=100))


def test_every_part_but_the_first_costs_a_diagnosis_more(base, runtime):
  def of(every, **how):
    changed = dict(diagnosis=base["diagnosis"] | how, methods=methods(again=every))
    place = runtime()
    return layers.plan(parse(base | changed, Layers), place).cell_passes(place)

  one = (of(0.5) - of(None)) / 3
  assert one == of(1.0) - of(None) == round(32 * (1 + 55 / 3))
  assert of(1.0, cache=False) - of(None, cache=False) > one
  assert of(2.0) == of(None)


def test_a_check_tells_of_the_parts(base, runtime):
  told = describe.describe(config_with(base, dict(methods=methods(again=0.5))), runtime())
  assert "again: again every 0.5 epochs, 4 parts in all" in told
  assert "again every" not in describe.describe(config_with(base, {}), runtime())


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(rediagnose_every=0.0), "rediagnose_every is 0.0; expected epochs above 0, or None"),
    (dict(rediagnose_every=-1.0), "rediagnose_every is -1.0; expected epochs above 0, or None"),
    (dict(rediagnose_every=1.0, diagnosed=False), "names its layers itself; write diagnosed=True, or leave"),
    (dict(rediagnose_every=0.001), r"methods\.again\.rediagnose_every is 0\.001; expected at least 0\.002"),
  ],
)
def test_what_cannot_be_is_one_line(base, changes, message):
  (method,) = methods(again=None).values()
  with pytest.raises(ConfigError, match=message) as caught:
    parse(base | dict(methods=dict(again=method | changes)), Layers)
  assert "\n" not in str(caught.value)
