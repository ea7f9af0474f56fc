"""The layers study, small and whole: base, diagnosis, methods, temperatures, and its report."""

import copy
import json

import jax
import numpy as np
import pytest

from jaxtl import losses, metrics, train
from jaxtl.config import parse
from jaxtl.errors import CheckpointError, ConfigError, DataError
from jaxtl.studies import layers, report, study
from jaxtl.studies.layers import Layers
from tests.train.conftest import tiny_config

PLAIN = [dict(fn=".data.normalize")]


def data(seed, **keywords):
  source = dict(make="tests.train.conftest.squares", seed=seed, **keywords)
  return dict(source=source, transforms=PLAIN, batch_size=16)


@pytest.fixture
def base():
  run = {key: value for key, value in tiny_config().items() if key != "evaluation"}
  pol = dict(make=".optim.pol", update="stage3_block1")
  return dict(
    base=run,
    data=run["data"],
    validation=data(1),
    test=data(2),
    diagnosis=dict(data=data(1), num_examples=32),
    task=dict(run["task"], frozen_stats=True),
    optimizer=dict(make=".optim.sgd", peak_rate=0.01),
    epochs=2.0,
    methods=dict(
      sgd=dict(gradient=dict(make=".optim.plain")),
      chosen=dict(gradient=pol, diagnosed=True),
      manual=dict(gradient=pol | dict(perturb="head")),
    ),
  )


def run(base, runtime, workdir, **changes):
  config = dict(study=".studies.layers.rows", base=base | changes, arms=dict(a=dict()), seeds=[0])
  return study.run_study(config, workdir=workdir, runtime=runtime())


def test_the_base_the_diagnosis_and_every_method_have_rows(base, runtime, tmp_path):
  rows = run(base, runtime, tmp_path / "run")
  diagnosed = [row for row in rows if row["kind"] == "layer_diagnosis"]
  assert [row["layer"] for row in diagnosed][-1] == "head"
  found = {row["method"]: row for row in rows if row["kind"] == "post_training"}
  assert list(found) == ["base", "sgd", "chosen", "manual"]
  chosen = {row["layer"]: row for row in diagnosed}
  [perturb] = [name for name, row in chosen.items() if row["perturb"]]
  [update] = [name for name, row in chosen.items() if row["update"]]
  assert found["chosen"]["perturb"] == chosen[perturb]["layer_blocks"]
  assert found["chosen"]["update"] == chosen[update]["layer_blocks"]
  assert (found["manual"]["perturb"], found["manual"]["update"]) == ("head", "stage3_block1")
  for row in found.values():
    assert row["scaled_loss"] <= row["test_loss"] + 1e-3  # squares are easy, and their temperature is low
    assert row["temperature"] > 0
    if row["method"] != "base":
      assert row["validation_loss"] <= found["base"]["validation_loss"]  # or the base would have been kept
      assert row["seconds_per_epoch"] > 0
      assert row["step_bytes"] > 0
      assert (row["reject_rate"] is None) == (row["method"] == "sgd")  # which rejects nothing
  report.write(tmp_path / "run", tmp_path / "out")
  text = (tmp_path / "out" / "report.md").read_text()
  for words in ("a: the base and what follows", "with a temperature alone", "Methods of a"):
    assert words in text


def scene_of(base, runtime, tmp_path, **changes):
  plan, here = parse(base | changes, Layers), runtime()
  start = layers._base(plan, 0, tmp_path / "run", here)
  return layers.Scene(plan, start, here, 0, tmp_path / "run")


def test_the_report_of_weights_is_that_of_their_logits(base, runtime, tmp_path):
  scene = scene_of(base, runtime, tmp_path)
  row = scene.report("base", scene.base)
  model = scene.base.model_spec().realize(num_classes=3)
  parts = {}
  for name in ("validation", "test"):
    batches = list(scene.runtime.eval_batches(getattr(scene.study, name)))
    given = scene.base.params, scene.base.batch_stats
    logits = [np.asarray(model.apply(*given, batch["image"])[0]["logits"]) for batch in batches]
    parts[name] = np.concatenate(logits), np.concatenate([b["label"] for b in batches])
  logits, labels = parts["test"]
  temperature = metrics.fit_temperature(*parts["validation"])
  assert row["temperature"] == pytest.approx(temperature, rel=1e-4)
  assert row["test_loss"] == pytest.approx(
    float(losses.softmax_cross_entropy(logits, labels).mean()), rel=1e-5
  )
  scaled = float(losses.softmax_cross_entropy(logits / temperature, labels).mean())
  assert row["scaled_loss"] == pytest.approx(scaled, rel=1e-4)
  assert row["test_error"] == np.mean(np.argmax(logits, axis=-1) != labels)


def test_the_best_epoch_is_kept_and_the_base_where_nothing_is_better(base, runtime, tmp_path):
  worse = dict(optimizer=dict(make=".optim.sgd", peak_rate=1e-3, momentum=0.0, weight_decay=300.0))
  scene = scene_of(base, runtime, tmp_path, **worse)
  row = scene.go_on("sgd", (None, None))
  assert row["kept_step"] == 0
  assert row["test_loss"] == scene.report("base", scene.base)["test_loss"]
  last = scene_of(base, runtime, tmp_path / "last", best=False, **worse).go_on("sgd", (None, None))
  assert last["kept_step"] == 12
  for key in ("loss", "error"):
    assert last[f"last_{key}"] == last[f"test_{key}"] == pytest.approx(row[f"last_{key}"], rel=1e-5)
  assert last["last_scaled_loss"] == last["scaled_loss"] == pytest.approx(row["last_scaled_loss"], rel=1e-5)
  assert row["last_loss"] > row["test_loss"] + 0.01


def test_only_the_updated_layer_moves(base, runtime, tmp_path):
  scene = scene_of(base, runtime, tmp_path, best=False)
  scene.go_on("manual", (None, None))
  after = train.checkpoint.load(tmp_path / "run" / "post_training" / "manual")
  same = jax.tree.map(np.array_equal, after.params, scene.base.params)
  moved = {block for block, parts in same.items() if not all(jax.tree.leaves(parts))}
  assert moved == {"stage3_block1"}


def test_a_checkpoint_may_be_the_base(base, runtime, tmp_path):
  scene = scene_of(base, runtime, tmp_path)
  changed = {key: value for key, value in base.items() if key != "base"}
  rows = run(
    changed, runtime, tmp_path / "other", start=scene.base.path, methods=dict(sgd=base["methods"]["sgd"])
  )
  found = [row for row in rows if row.get("method") == "base"]
  assert found[0]["test_loss"] == pytest.approx(scene.report("base", scene.base)["test_loss"])


def test_what_is_finished_is_read_back(base, runtime, tmp_path):
  run(base, runtime, tmp_path / "run")
  folder = tmp_path / "run" / "a" / "0"
  (folder / "rows.jsonl").unlink()
  file = folder / "methods" / "sgd.json"
  file.write_text(json.dumps(json.loads(file.read_text()) | {"test_loss": 7.0}))
  again = run(base, runtime, tmp_path / "run")
  assert [row["test_loss"] for row in again if row.get("method") == "sgd"] == [7.0]


@pytest.mark.parametrize(
  ("path", "value", "message"),
  [
    (("methods",), {}, "methods is .*expected some"),
    (("methods", "base"), dict(gradient=dict(make=".optim.plain")), "none 'base'"),
    (("start",), "somewhere", "either base or start"),
    (("diagnosis",), None, "diagnosis is None; expected one, for diagnosed methods"),
    (("epochs",), 0.0, "epochs is 0.0"),
    (("validation",), data(0), "has images of the training data"),
    (("validation",), data(2), "has images of the test data"),
    (("diagnosis", "data"), data(2), "has images of the test data"),
    (("test",), data(2, num_classes=2), "test has other classes"),
    (("methods", "manual", "gradient", "update"), "stage9", "stage9"),
  ],
)
def test_bad_input_is_one_line(base, runtime, tmp_path, path, value, message):
  changed = copy.deepcopy(base)
  at = changed
  for key in path[:-1]:
    at = at[key]
  at[path[-1]] = value
  if path == ("validation",) and value == data(0):
    value["source"].pop("seed")
  with pytest.raises((CheckpointError, ConfigError, DataError), match=message) as caught:
    run(changed, runtime, tmp_path / "run")
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "run" / "a").exists()
