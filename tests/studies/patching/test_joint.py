"""Fine-tuning on all patching tasks at once."""

import copy

import numpy as np
import pytest

import jaxtl.data
from jaxtl import tree
from jaxtl.config import parse
from jaxtl.errors import ConfigError
from jaxtl.report.results import load
from jaxtl.runner import plan, preflight
from jaxtl.studies.patching import merging
from jaxtl.studies.patching import study as patching
from jaxtl.studies.patching import tables as patching_tables
from jaxtl.studies.patching.joint import joint_experiment, shared_transforms
from jaxtl.studies.patching.settings import Merging, Patching
from tests.studies.patching.test_merging import many
from tests.studies.patching.test_study import base, bench_of, checkpointed, run

pytestmark = pytest.mark.slow

__all__ = ["base", "checkpointed", "many"]

FLIP, NORMALIZE = dict(fn=".data.flip_left_right"), dict(fn=".data.normalize")
CROP = dict(fn=".data.random_resized_crop", size=8)
JOINT = dict(methods=["joint"])


def joint(bench):
  backbone, names = bench.tasks.backbone, list(bench.study.patching)
  sizes = {name: len(bench.tasks.classes(name)) for name in names}
  return joint_experiment(bench.study, backbone.spec, backbone.head, sizes=sizes)


def counted(many):
  """The same tasks with what their images are said to hold, of which no two are alike."""
  many = copy.deepcopy(many)
  for name, classes in (("two", 2), ("three", 3)):
    many["patching"][name]["train"] |= dict(num_examples=96, num_classes=classes)
  return many


def test_it_moves_no_head_and_sees_all_tasks(many, runtime, tmp_path):
  bench = bench_of(many, runtime, tmp_path)
  experiment = joint(bench)
  source = bench.runtime.open(experiment.data)
  assert source.classes == ("two/p", "two/q", "three/u", "three/v", "three/w")
  head, classes = merging._joint_head(bench)
  assert head["kernel"].shape[-1] == 5
  np.testing.assert_array_equal(head["kernel"][:, 2:], bench.tasks.head("three")["kernel"])
  after = bench.trained(experiment, head, classes, name="joint")
  assert "head" not in after["params"]
  assert tree.norm(tree.sub(after["params"], bench.before["params"])) > 0
  old, new = (
    sum(bench.tasks.scores(name, "validation", found)["loss"] for name in ("two", "three"))
    for found in (bench.before, after)
  )
  assert new < old


def test_what_the_config_says_of_one_task_is_not_asked_of_all(many, runtime, tmp_path):
  bench = bench_of(counted(many), runtime, tmp_path)
  assert len(bench.runtime.open(joint(bench).data)) == 2 * 96
  [row] = merging.rows(bench, Merging(methods=("joint",)))
  assert row["method"] == "joint"


def with_transforms(many, *, kind="transforms", **lists):
  many = copy.deepcopy(many)
  for name, transforms in lists.items():
    many["patching"][name]["train"][kind] = transforms
  return many


def test_augmentations_that_not_all_tasks_have_are_left_out_and_the_report_says_so(many, runtime, tmp_path):
  differing = with_transforms(many, two=[CROP, FLIP, NORMALIZE], three=[CROP, NORMALIZE])
  other = with_transforms(many, two=[CROP, NORMALIZE], three=[FLIP, CROP, NORMALIZE])
  for changed, name in ((differing, "two"), (other, "three")):
    shared = shared_transforms(parse(changed, Patching))
    assert [spec.path for spec in shared.transforms] == [CROP["fn"], NORMALIZE["fn"]]
    assert shared.left_out == {name: ["flip_left_right"]}
  *_, row = run(differing, runtime, tmp_path / "run", merging=JOINT)
  assert row["left_out"] == {"two": ["flip_left_right"]}
  [grid] = [g for g in patching_tables.behind(load(tmp_path / "run")) if g.title == "Merges of a"]
  assert grid.rows[0][-1] == "without the flip_left_right of two"


def test_the_joint_images_are_those_of_the_shared_transforms(many, runtime, tmp_path):
  """The first task mirrors all its images, the other none: none is mirrored."""
  mirrored = with_transforms(many, two=[FLIP | dict(probability=1.0), NORMALIZE])
  bench = bench_of(mirrored, runtime, tmp_path)
  data = joint(bench).data
  batch = next(iter(bench.runtime.train_batches(data, seed=0, start_step=0)))
  plain = jaxtl.data.eval_batches(bench.runtime.open(data), [jaxtl.data.normalize], batch_size=2 * 96)
  images = np.asarray(next(iter(plain))["image"])
  for image in np.asarray(batch["image"]):
    assert np.any(np.all(np.isclose(images, image, atol=1e-6), axis=(1, 2, 3)))


def test_batch_transforms_are_shared_too(many):
  mixup = dict(fn=".data.mixup", alpha=0.2)
  one = with_transforms(many, kind="batch_transforms", two=[mixup])
  assert shared_transforms(parse(one, Patching)).left_out == {"two": ["mixup(alpha=0.2)"]}
  both = with_transforms(one, kind="batch_transforms", three=[mixup])
  shared = shared_transforms(parse(both, Patching))
  assert not shared.left_out
  assert [spec.path for spec in shared.batch_transforms] == [".data.mixup"]


def rehearse(study, runtime):
  preflight.rehearse_arm(patching.rows, "a", study, runtime)


@pytest.mark.parametrize(
  ("transforms", "message"),
  [
    ([dict(fn=".data.normalize", mean=[0.5, 0.5, 0.5])], r"normalize\(mean=.*, which three does not have"),
    ([dict(fn=".data.resize", size=12), NORMALIZE], r"patching.two.train.transforms has resize\(size=12\)"),
    ([CROP, NORMALIZE], r"random_resized_crop\(size=8\), which three does not have"),
  ],
)
def test_tasks_that_differ_in_more_are_refused_before_anything_is_made(
  many, runtime, tmp_path, transforms, message
):
  differing = with_transforms(many, two=transforms, three=[NORMALIZE])
  with pytest.raises(ConfigError, match=message) as caught:
    rehearse(parse(differing | dict(merging=JOINT), Patching), runtime())
  assert "\n" not in str(caught.value)
  with pytest.raises(ConfigError, match=message):  # without a checkpoint, as `jaxtl check` may be asked
    rehearse(parse(differing | dict(merging=JOINT, start="nowhere"), Patching), runtime())
  rehearse(parse(differing | dict(merging=dict(methods=["ties"])), Patching), runtime())


def test_another_order_is_refused(many):
  order = dict(two=[FLIP, NORMALIZE], three=[NORMALIZE, FLIP])
  with pytest.raises(ConfigError, match=r"three.* in another order than those of two: normalize, flip"):
    shared_transforms(parse(with_transforms(many, **order), Patching))


@pytest.mark.parametrize(
  ("two", "three", "message"),
  [
    ([FLIP, NORMALIZE], [FLIP, NORMALIZE, FLIP], "three.*has flip_left_right 2 times, and that of two once"),
    ([NORMALIZE, NORMALIZE], [NORMALIZE], "three.*has normalize once, and that of two 2 times"),
  ],
)
def test_a_transform_that_is_there_twice_is_refused_with_how_often(many, two, three, message):
  with pytest.raises(ConfigError, match=message):
    shared_transforms(parse(with_transforms(many, two=two, three=three), Patching))


def test_a_rehearsal_traces_it(many, runtime, monkeypatch):
  def note(*what):
    traced.append(what)
    return None, None

  traced = []
  monkeypatch.setattr(plan.experiments, "rehearse", lambda tuned, **facts: note(tuned, facts["num_classes"]))
  rehearse(parse(counted(many) | dict(merging=JOINT), Patching), runtime())
  tuned, classes = traced[-1]
  assert tuned.data.source.path == ".data.joined"
  assert classes == 5
  rehearse(parse(counted(many), Patching), runtime())
  assert traced[-1][0].data.source.path != ".data.joined"


def test_a_rehearsal_takes_the_size_from_whichever_task_tells_it(many, runtime, monkeypatch):
  sizes = []
  monkeypatch.setattr(
    plan.experiments, "rehearse", lambda tuned, **facts: (sizes.append(facts["image_size"]), None)
  )
  told = copy.deepcopy(many)
  told["patching"]["two"]["test"]["transforms"] = [dict(fn=".data.resize", size=12), NORMALIZE]
  rehearse(parse(told | dict(merging=JOINT), Patching), runtime())
  assert sizes == [12, 12, 12]
