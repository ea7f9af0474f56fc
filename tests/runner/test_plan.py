"""What `jaxtl check` tells of studies that are no experiment: what it says is what the run then does."""

import json
import re

import pytest

from jaxtl import train, tree
from jaxtl.checkpoints import checkpoint, manifest
from jaxtl.errors import CheckpointError, DamagedError
from jaxtl.host.files import size_text
from jaxtl.runner import describe
from jaxtl.runner import run as study
from tests.small_study import study_config
from tests.studies.layers.test_study import base as layers_base
from tests.studies.patching.test_study import base as patching_base
from tests.studies.patching.test_study import checkpointed

pytestmark = pytest.mark.slow

__all__ = ["checkpointed", "layers_base", "patching_base", "study_config"]  # fixtures
NOWHERE = dict(source=dict(make=".data.from_sheets", folder="nowhere", split="train"))


def config_of(name, base, **arms):
  return dict(study=f".studies.{name}.rows", base=base, arms=arms or dict(a=dict()), seeds=[0])


def told(text, what):
  """The texts of all lines of one kind."""
  return re.findall(rf"^ *{what} +(\S.*)$", text, re.M)


def test_a_patching_study_tells_its_pairs_images_and_fine_tunings(patching_base, runtime, tmp_path):
  config = config_of("patching", patching_base, a=dict(), b=dict(normalise="log_classes"))
  text = describe.describe(config, runtime())
  params = train.load(patching_base["start"]).params
  assert told(text, "network") == [f"resnet8(width=4), {tree.size(params):,} parameters"]
  assert told(text, "pairs") == ["2 = 1 supported x 2 patched"]  # once: the second arm trains the same
  images = ["old", "two", "three"]
  assert told(text, "images") == [f"96 train, 96 validation, 96 test: {name}" for name in images]
  assert told(text, "training") == ["two", "three"]
  assert told(text, "steps") == ["12 = 2 epochs of 96 images in batches of 16"] * 2
  body = tree.size(params) - tree.size(params["head"])
  features = params["head"]["kernel"].shape[0]
  found = [line.partition(", ")[0].replace(",", "") for line in told(text, "parameters")]
  assert list(map(int, found)) == [body + (features + 1) * classes for classes in (2, 3)]
  assert not told(text, "missing")
  rows = study.run_study(config, workdir=tmp_path / "run", runtime=runtime(), arms=["a"])
  assert len(rows) == 2
  tuned = train.load(tmp_path / "run" / "a" / "0" / "fine_tune" / "two")
  assert tuned.config["step"] == 12
  assert tree.size(tuned.params) == body + 2 * (features + 1)


@pytest.mark.parametrize(("compiled", "times"), [("none", 0), ("first", 1), ("all", 2)])
def test_as_many_trainings_are_compiled_as_are_asked_for(patching_base, runtime, compiled, times):
  # The first arm has no checkpoint: the first training that is known is another one's.
  arms = dict(a=dict(start="nowhere"), b=dict())
  text = describe.describe(config_of("patching", patching_base, **arms), runtime(), compiled=compiled)
  assert text.count("as compiled") == times


def test_a_layers_study_tells_its_base_and_methods_with_the_memory_that_the_rows_have(
  layers_base, runtime, tmp_path
):
  config = config_of("layers", layers_base, a=dict(), b=dict(epochs=1.0))
  text = describe.describe(config, runtime(), compiled="all")
  assert told(text, "images")[0] == "96 train, 96 validation, 96 test, 32 for the diagnosis"
  assert told(text, "training") == ["base", "sgd", "chosen", "manual"] * 2
  length = "12 = 2 epochs of 96 images in batches of 16"
  assert told(text, "steps")[1:4] == [length] * 3
  assert told(text, "steps")[5:] == ["6 = 1 epochs of 96 images in batches of 16"] * 3
  rows = study.run_study(config, workdir=tmp_path / "run", runtime=runtime(), arms=["a"])
  found = {row["method"]: row for row in rows if row["kind"] == "post_training"}
  memory = dict(zip(told(text, "training"), told(text, "memory")))
  for name in ("manual", "sgd"):
    assert f": {size_text(found[name]['step_bytes'])} as compiled" in memory[name]
    assert found[name]["steps"] == 12


def test_a_layers_study_of_a_checkpoint_tells_its_network(layers_base, checkpointed, runtime):
  started = layers_base | dict(base=None, start=checkpointed)
  text = describe.describe(config_of("layers", started), runtime())
  assert told(text, "network")[0].startswith("resnet8(width=4), ")
  assert told(text, "training") == ["sgd", "chosen", "manual"]
  text = describe.describe(config_of("layers", started | dict(start="nowhere")), runtime())
  assert told(text, "missing")[0].startswith("no checkpoint at nowhere: make it first")
  assert not told(text, "training")
  layers_base["base"]["start"] = "elsewhere"  # that of the base run itself
  text = describe.describe(config_of("layers", layers_base), runtime())
  assert told(text, "missing")[0].startswith("no checkpoint at elsewhere: make it first")
  assert told(text, "training") == ["base", "sgd", "chosen", "manual"]


@pytest.fixture
def transfer_base(patching_base):
  two, three = (patching_base["patching"][name] for name in ("two", "three"))
  targets = {name: dict(train=task["train"], test=task["test"]) for name, task in (("x", two), ("y", three))}
  fine_tune = patching_base["fine_tune"]
  probe = dict(l2=[0.1], max_iters=7)
  return dict(
    start=patching_base["start"], transfer=dict(targets=targets, linear_probe=probe, fine_tune=fine_tune)
  )


def test_a_transfer_study_tells_its_network_images_probe_and_fine_tunings(transfer_base, runtime, tmp_path):
  config = config_of("transfer", transfer_base, a=dict(), b=dict(start="nowhere"))
  text = describe.describe(config, runtime(), compiled="first")
  params = train.load(transfer_base["start"]).params
  assert told(text, "network") == [f"resnet8(width=4), {tree.size(params):,} parameters"]
  assert told(text, "images") == ["96 train, 96 test: x", "96 train, 96 test: y"] * 2
  assert told(text, "probe") == ["1 penalty, at most 7 L-BFGS steps: every target"] * 2
  assert told(text, "training") == ["fine-tune x", "fine-tune y"] * 2
  assert told(text, "steps") == ["12 = 2 epochs of 96 images in batches of 16"] * 4
  assert told(text, "missing") == [
    "no checkpoint at nowhere: make it first; its parameters and memory are shown then"
  ]
  assert text.count("as compiled") == 1
  assert len(told(text, "memory")) == 2  # of the arm whose network is known
  rows = study.run_study(config, workdir=tmp_path / "run", runtime=runtime(), arms=["a"])
  assert {row["steps"] for row in rows if row["protocol"] == "fine_tune"} == {12}
  probe_alone = transfer_base | dict(transfer=transfer_base["transfer"] | dict(fine_tune=None))
  text = describe.describe(config_of("transfer", probe_alone), runtime())
  assert told(text, "images") == ["96 train, 96 test: x", "96 train, 96 test: y"]
  assert not told(text, "training")


def test_pretraining_tells_its_targets_too(study_config, runtime):
  config = json.loads(json.dumps(study_config))
  targets = config["base"]["transfer"]["targets"]
  text = describe.describe(config, runtime())
  assert len(told(text, "images")) == len(targets)
  for name in targets:
    assert f"fine-tune {name}" in told(text, "training")
  target = next(iter(targets.values()))
  target["test"]["source"] = dict(make=".data.from_parquet", path="none.parquet")
  assert told(describe.describe(config, runtime()), "missing")[0].startswith("there is no none.parquet")


@pytest.fixture
def flatness_base(checkpointed):
  source = dict(make="tests.small_training.squares")
  return dict(start=checkpointed, flatness=dict(data=dict(source=source, batch_size=16), num_examples=48))


def test_a_flatness_study_tells_its_network_images_and_a_gradients_memory(flatness_base, runtime):
  text = describe.describe(config_of("flatness", flatness_base), runtime(), compiled="first")
  size = tree.size(train.load(flatness_base["start"]).params)
  assert told(text, "images") == ["48 of 96, in batches of 16"]
  assert told(text, "network") == [f"resnet8(width=4), {size:,} parameters"]
  assert told(text, "parameters")[0].startswith(f"{size:,},")
  assert "as compiled" in told(text, "memory")[0]
  assert not told(text, "steps")
  towards = flatness_base | dict(slice=dict(towards="nowhere"))
  text = describe.describe(config_of("flatness", towards), runtime())
  assert told(text, "missing")[0].startswith("no checkpoint at nowhere")


@pytest.mark.parametrize("name", ["patching", "layers", "flatness", "transfer"])
def test_what_is_not_there_is_a_line_and_the_rest_is_told(
  name, patching_base, layers_base, flatness_base, transfer_base, runtime
):
  bases = dict(patching=patching_base, layers=layers_base, flatness=flatness_base, transfer=transfer_base)
  base = bases[name]

  def moved(value):
    """The same with every source replaced by a file that there is none of; equal ones by the same one."""
    if "source" not in value:
      return value
    return value | dict(source=dict(make=".data.from_parquet", path=f"{value['source'].get('seed')}.parquet"))

  gone = json.loads(json.dumps(base), object_hook=moved)
  if "start" in gone:
    gone["start"] = "runs/nowhere"
  text = describe.describe(config_of(name, gone), runtime())
  missing = told(text, "missing")
  assert any(
    re.match(r"there is no \w+\.parquet; give the folder above it with --data-dir", line) for line in missing
  )
  assert ("no checkpoint at runs/nowhere" in " ".join(missing)) == ("start" in gone)
  assert "unknown" in told(text, "images")[0]
  assert not told(text, "memory")
  steps = None if name == "flatness" else "2 epochs in batches of 16"
  assert (steps in told(text, "steps")) == (steps is not None)


def test_images_that_the_config_counts_are_not_opened(patching_base, runtime):
  facts = dict(NOWHERE, num_examples=160, num_classes=5, transforms=[dict(fn=".data.resize", size=8)])
  for task in (*patching_base["supported"].values(), *patching_base["patching"].values()):
    for part in ("train", "validation", "test"):
      task[part] = task[part] | facts | dict(source=dict(NOWHERE["source"], split=part))
  text = describe.describe(config_of("patching", patching_base), runtime())
  assert not told(text, "missing")
  assert told(text, "steps") == ["20 = 2 epochs of 160 images in batches of 16"] * 2
  assert len(told(text, "memory")) == 2


def test_a_checkpoint_that_is_there_and_cannot_be_used_is_refused(flatness_base, runtime):
  config = config_of("flatness", flatness_base)
  path = checkpoint.find(flatness_base["start"]) / manifest.NAME
  value = json.loads(path.read_text()) | dict(format=9)
  rest = {name: entry for name, entry in value.items() if name != "digest"}
  path.write_text(json.dumps(value | dict(digest=manifest._digest(rest))))
  with pytest.raises(CheckpointError, match="has format 9"):
    describe.describe(config, runtime())
  path.write_text("{}")
  with pytest.raises(DamagedError, match="is damaged"):
    describe.describe(config, runtime())
