"""The layers study, small and whole: base, diagnosis, methods, temperatures, and its report."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxtl import losses, metrics, models, optim, train
from jaxtl.checkpoints import checkpoint
from jaxtl.config import merge, parse
from jaxtl.errors import CheckpointError, ConfigError, DataError
from jaxtl.host import sealed_json
from jaxtl.measure import layer_diagnosis
from jaxtl.report import write as report
from jaxtl.runner import describe, preflight
from jaxtl.runner import run as study
from jaxtl.studies.layers import plan as layers_plans
from jaxtl.studies.layers import study as layers
from jaxtl.studies.layers.methods import Methods
from jaxtl.studies.layers.study import Layers
from tests.changed import changed
from tests.small_training import tiny_config

pytestmark = pytest.mark.slow

PLAIN = [dict(fn=".data.normalize")]


def in_one_piece(*, num_classes):
  """A network that has layers, and does not say which."""
  return dataclasses.replace(models.resnet8(num_classes=num_classes, width=4), blocks=())


def data(seed, **keywords):
  source = dict(make="tests.small_training.squares", seed=seed, **keywords)
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
      # The training images are flipped at random.
      assert row["cache"] == "none"
  report.write(tmp_path / "run", tmp_path / "out")
  text = (tmp_path / "out" / "report.md").read_text()
  for words in ("a: the base and what follows", "with a temperature alone", "Methods of a"):
    assert words in text


def scene_of(base, runtime, tmp_path, **changes):
  plan, here = parse(base | changes, Layers), runtime()
  start = layers._base(plan, 0, tmp_path / "run", here)
  return Methods(plan, start, here, 0, tmp_path / "run")


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
  row = scene.go_on("sgd")
  assert row["kept_step"] == 0
  assert row["test_loss"] == scene.report("base", scene.base)["test_loss"]
  last = scene_of(base, runtime, tmp_path / "last", best=False, **worse).go_on("sgd")
  assert last["kept_step"] == 12
  for key in ("loss", "error"):
    assert last[f"last_{key}"] == last[f"test_{key}"] == pytest.approx(row[f"last_{key}"], rel=1e-5)
  assert last["last_scaled_loss"] == last["scaled_loss"] == pytest.approx(row["last_scaled_loss"], rel=1e-5)
  assert row["last_loss"] > row["test_loss"] + 0.01


def test_only_the_updated_layer_moves(base, runtime, tmp_path):
  scene = scene_of(base, runtime, tmp_path, best=False)
  scene.go_on("manual")
  after = checkpoint.load(tmp_path / "run" / "post_training" / "manual")
  same = jax.tree.map(np.array_equal, after.params, scene.base.params)
  moved = {block for block, parts in same.items() if not all(jax.tree.leaves(parts))}
  assert moved == {"stage3_block1"}


def test_a_checkpoint_may_be_the_base(base, runtime, tmp_path):

  def check(study, place):
    preflight.check_data(layers.plan(study, place), "a", place)

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
  file.write_text(sealed_json.text(sealed_json.read(file) | {"test_loss": 7.0}))
  again = run(base, runtime, tmp_path / "run")
  assert [row["test_loss"] for row in again if row.get("method") == "sgd"] == [7.0]


def test_kept_hidden_states_change_the_cost_and_not_the_losses(base, runtime, tmp_path):
  """By itself where nothing is drawn at random, and where it says so."""
  pol, fixed = base["methods"]["manual"]["gradient"], dict(base["data"], transforms=PLAIN)
  methods = {name: dict(gradient=pol, cache=dict(where=name)) for name in ("none", "host", "device")}
  methods["auto"] = dict(gradient=pol)
  base["base"]["data"] = fixed
  scene = scene_of(base, runtime, tmp_path, data=fixed, best=False, methods=methods, diagnosis=None)
  rows = {name: scene.go_on(name) for name in methods}
  expected = rows.pop("none")
  assert expected["cache"] == "none"
  assert {name: row["cache"] for name, row in rows.items()} == dict(host="host", device="device", auto="host")
  for row in rows.values():
    for key in ("test_loss", "last_loss", "validation_loss"):
      assert row[key] == pytest.approx(expected[key], rel=1e-4)
  assert rows["host"]["step_bytes"] == rows["auto"]["step_bytes"] < expected["step_bytes"]
  kept = 96 * 4 * 4 * 8 * 4  # what enters the last block, of all images
  assert rows["device"]["step_bytes"] == rows["host"]["step_bytes"] + kept
  assert not np.isclose(expected["last_loss"], scene.report("base", scene.base)["test_loss"], rtol=1e-3)


def test_a_method_without_layers_is_left_out_and_the_others_run(base, runtime, tmp_path, monkeypatch):
  whole = layer_diagnosis.diagnose
  monkeypatch.setattr(
    layer_diagnosis, "diagnose", lambda *given: [row | {"update": False} for row in whole(*given)]
  )
  rows = run(base, runtime, tmp_path / "run", epochs=0.5)
  methods = {row["method"]: row["kind"] for row in rows if "method" in row}
  assert methods == dict(base="post_training", sgd="post_training", chosen="not_run", manual="post_training")
  (row,) = [row for row in rows if row["kind"] == "not_run"]
  assert row["reason"] == "the diagnosis chooses no layer to update; name the method's layers instead"
  report.write(tmp_path / "run", tmp_path / "out")
  assert "chosen of a, seed 0: the diagnosis chooses no layer" in (tmp_path / "out" / "report.md").read_text()


def test_the_work_ahead_counts_the_passes_of_each_rule(base, runtime):
  def of(**methods):
    place = runtime()
    return layers.plan(parse(base | dict(methods=methods), Layers), place).cell_passes(place)

  sgd, sam = (dict(gradient=dict(make=f".optim.{name}")) for name in ("plain", "sam"))
  sam["gradient"]["rho"] = 0.05
  once = of(a=sgd, b=sgd) - of(a=sgd)
  assert once == 2 * 96  # epochs of images
  assert of(a=sgd, b=sam) - of(a=sgd) == optim.passes(optim.sam(rho=0.05)) * once == 2 * once


def test_a_checkpoint_s_own_training_images_choose_nothing(base, runtime, tmp_path):
  """Also where the study trains on others."""

  def check(study, place):
    preflight.check_data(layers.plan(study, place), "a", place)

  scene = scene_of(base, runtime, tmp_path)
  changed = {key: value for key, value in base.items() if key != "base"} | dict(start=scene.base.path)
  own = dict(base["data"], transforms=PLAIN)
  for field in ("validation", "test"):
    study_of = changed | {"data": data(3), field: own}
    with pytest.raises(ConfigError, match=f"{field} has images of the training of {scene.base.path}"):
      check(parse(study_of, Layers), runtime())
  check(parse(changed | dict(data=data(3)), Layers), runtime())
  unknown = dataclasses.replace(scene.base, config={**scene.base.config, "experiment": None})
  assert layers_plans._learned(unknown) == {}


HOST = dict(where="host")
IMPOSSIBLE = [
  (
    dict(diagnosis=dict(groups=["stage9.*"])),
    r"diagnosis\.groups: the layer 'stage9\.\*' matches no block",
  ),
  (
    dict(methods=dict(manual=dict(cache=HOST))),
    r"methods\.manual\.cache: no hidden .*flip_left_right draws",
  ),
  (
    dict(methods=dict(chosen=dict(cache=HOST))),
    r"methods\.chosen\.cache: no hidden .*flip_left_right draws",
  ),
  (dict(methods=dict(sgd=dict(cache=HOST))), r"methods\.sgd\.cache: no hidden .* moves the whole network"),
  (
    dict(methods=dict(manual=dict(cache=HOST | dict(views=10**9)))),
    r"methods\.manual\.cache: \d+ hidden states, .* do not fit into the host's memory",
  ),
  (dict(base=dict(model=dict(make="tests.studies.layers.test_study.in_one_piece"))), "resnet8 has no blocks"),
  (
    dict(
      base=dict(model=dict(make="tests.studies.layers.test_study.in_one_piece")),
      diagnosis=None,
      methods=dict(chosen=dict(diagnosed=False)),
    ),
    "post-training needs a model with blocks; resnet8 has none",
  ),
]


def config_with(base, changes):
  return dict(study=".studies.layers.rows", base=merge(base, changes), arms=dict(a=dict()), seeds=[0])


@pytest.mark.parametrize(("changes", "message"), IMPOSSIBLE)
def test_what_cannot_be_is_one_line_before_the_base_is_trained(
  base, runtime, tmp_path, monkeypatch, changes, message
):
  monkeypatch.setattr(train, "run", None)
  with pytest.raises(ConfigError, match=message) as caught:
    study.run_study(config_with(base, changes), workdir=tmp_path / "run", runtime=runtime())
  assert "\n" not in str(caught.value)
  assert caught.value.code == 2
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("changes", "message"), [case for case in IMPOSSIBLE if "do not fit" not in case[1]])
def test_a_check_refuses_it_too(base, runtime, changes, message):
  with pytest.raises(ConfigError, match=message):
    describe.describe(config_with(base, changes), runtime())


@pytest.mark.parametrize(
  ("path", "value", "message"),
  [
    (("methods",), {}, "methods is .*expected at least one method"),
    (("methods", "base"), dict(gradient=dict(make=".optim.plain")), "none named 'base'"),
    (("start",), "somewhere", "base and start are both given; write either base or start$"),
    (("base",), None, "neither base nor start is given; write either base or start$"),
    (("test",), data(0), "test has images of data, which it has learned"),
    (("diagnosis",), None, "diagnosis is None; expected a diagnosis, because some methods are diagnosed"),
    (("epochs",), 0.0, "epochs is 0.0"),
    (("validation",), data(0), "validation has images of data, .*; hold out a part"),
    (("validation",), data(2), "validation has images of test, on which nothing may be chosen"),
    (("diagnosis", "data"), data(2), "diagnosis.data has images of test"),
    (("test",), data(2, num_classes=2), "test has other classes"),
    (("methods", "manual", "gradient", "update"), "stage9", "stage9"),
  ],
)
def test_bad_input_is_one_line(base, runtime, tmp_path, path, value, message):
  wrong = changed(base, path, value)
  if value == data(0):
    value["source"].pop("seed")
  with pytest.raises((CheckpointError, ConfigError, DataError), match=message) as caught:
    run(wrong, runtime, tmp_path / "run")
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "run" / "a").exists()
