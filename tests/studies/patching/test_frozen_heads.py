"""Zero-shot heads in a patching study: an imported image tower between two tasks of words."""

import dataclasses
import functools

import numpy as np
import pytest

from jaxtl import zero_shot
from jaxtl.checkpoints import checkpoint
from jaxtl.config import parse, spec
from jaxtl.errors import CheckpointError, ConfigError, DataError, InputError
from jaxtl.runner import describe
from jaxtl.runner import run as study
from jaxtl.studies.patching import frozen_heads
from jaxtl.studies.patching import study as patching
from jaxtl.studies.patching.settings import Patching
from tests.pretrained.made_weights import as_weights
from tests.zero_shot.made_text import SIZE, save_prompts, save_vocabulary

pytestmark = pytest.mark.slow

TEXT = dict(width=12, depth=1, num_heads=3, embed_dim=5, vocabulary=SIZE, context=16)
IMAGE = dict(width=8, depth=1, num_heads=2, embed_dim=5, image_size=8, patch_size=4)


@pytest.fixture
def files(tmp_path):
  """The keywords of a head whose words are "cat" and so on, for the data's classes a, b and c."""
  checkpoint.save_weights(as_weights("clip_text_b", size=16, classes=(), **TEXT), tmp_path / "text")
  words = save_prompts(tmp_path / "words.json", classes=["cat", "dog", "photo"], labels=["a", "b", "c"])
  vocabulary = save_vocabulary(tmp_path / "merges.txt")
  return dict(text=str(tmp_path / "text"), vocabulary=vocabulary, prompts=words)


@pytest.fixture
def start(tmp_path):
  """An image tower as `jaxtl import ... head=scaled_cosine` leaves it."""
  tower = as_weights("clip_vit_b32", size=8, classes=(), head="scaled_cosine", **IMAGE)
  checkpoint.save_weights(tower, tmp_path / "start")
  return str(tmp_path / "start")


def task(seed, num_classes):
  def data(seed):
    source = dict(make="tests.small_training.squares", seed=seed, num_classes=num_classes)
    return dict(source=source, transforms=[dict(fn=".data.normalize")], batch_size=32)

  return dict(train=data(seed), validation=data(seed + 1), test=data(seed + 2))


def config(files, start, **changes):
  describe = dict(make=".optim.adamw", peak_rate=1e-2, weight_decay=0.1, decay_where=".*", clip_norm=1.0)
  loss = dict(fn=".losses.softmax_cross_entropy")
  fine_tune = dict(
    task=dict(make=".tasks.classification", loss=loss),
    optimizer=describe | dict(schedule=dict(make=".optim.cosine", warmup_steps=1)),
    steps=3,
  )
  base = dict(
    start=start,
    supported=dict(old=task(1, 3)),
    patching=dict(new=task(10, 2)),
    head=dict(make=".studies.patching.zero_shot", subset=True, **files),
    fine_tune=fine_tune,
  )
  return base | changes


def plan(files, start, **changes):
  return parse(config(files, start, **changes), Patching)


def test_patching_starts_from_zero_shot_accuracy_and_leaves_the_words_alone(files, start, runtime, tmp_path):
  bench = patching.FineTunedTasks.of(
    plan(files, start), runtime(), side=8, seed=0, workdir=tmp_path / "bench" / "0"
  )
  made = bench.tasks.head("new")
  expected = zero_shot.zero_shot(**files, subset=True)(["a", "b"])
  np.testing.assert_array_equal(made["kernel"], expected["kernel"])
  before, after = bench.path("new").scores(0.0, ["new", "old"]), bench.path("new").scores(1.0, ["new"])
  tower = zero_shot.with_head(checkpoint.load(start), expected, ["a", "b"])
  found = zero_shot_accuracy(tower, runtime())
  assert before["new"]["top1"] == pytest.approx(found)
  assert after["new"]["loss"] < before["new"]["loss"]
  np.testing.assert_array_equal(bench.tasks.head("new")["kernel"], expected["kernel"])


def zero_shot_accuracy(tower, runtime):
  """Of a whole model on the validation images of the new task."""
  from jaxtl import data
  from tests.small_training import squares

  batch = next(iter(data.eval_batches(squares(seed=11, num_classes=2), [data.normalize], batch_size=96)))
  model = tower.model_spec().realize(num_classes=2)
  logits = model.apply(tower.params, tower.batch_stats, batch["image"])[0]["logits"]
  return float(np.mean(np.argmax(logits, axis=1) == batch["label"]))


def test_a_backbone_of_another_kind_says_how_to_import_it(files, start, runtime, tmp_path):
  weights = as_weights("clip_vit_b32", size=8, classes=(), **IMAGE)
  checkpoint.save_weights(weights, tmp_path / "linear")
  linear = plan(files, str(tmp_path / "linear"))
  bench = patching.FineTunedTasks.of(linear, runtime(), side=8, seed=0, workdir=tmp_path / "bench" / "0")
  with pytest.raises(
    ConfigError, match=r"need a backbone with head=scaled_cosine, and .* has head=linear; import"
  ):
    bench.tasks.head("new")


def test_some_of_the_words_need_subset_and_the_prompts_are_checked_at_once(files, start):
  around = frozen_heads.HeadInputs("new", checkpoint.load(start), "head", ("a",), lambda: None)
  with pytest.raises(DataError, match="are for 3 classes, and the data have 1"):
    frozen_heads.zero_shot(**files)(around)
  assert frozen_heads.zero_shot(**files, subset=True)(around)["kernel"].shape == (5, 1)
  with pytest.raises(ConfigError, match="there are no prompts 'cifar11'"):
    spec(dict(make=".studies.patching.zero_shot", **(files | dict(prompts="cifar11")))).realize()


def whole(base):
  return dict(study=".studies.patching.rows", base=base, arms=dict(a=dict()), seeds=[0])


@pytest.mark.parametrize(
  ("change", "error", "message"),
  [
    (dict(subset=False), DataError, "the head of new: the prompts .* are for 3 classes, and the data have 2"),
    (dict(vocabulary="no.txt"), InputError, "the head of old: there is no vocabulary at no.txt"),
    (dict(text="nowhere"), CheckpointError, "the head of old: no checkpoint at .*nowhere"),
    (dict(text="other"), CheckpointError, "embeds images in 5 dimensions, and the text tower its texts in 6"),
    (dict(text="small"), ConfigError, "tokens, and the text tower is for"),
    (dict(text="start"), CheckpointError, "which is not a text tower"),
  ],
)
def test_a_head_that_cannot_be_made_is_told_before_anything_is_written(
  files, start, runtime, tmp_path, change, error, message
):
  for name, keywords in (("other", dict(embed_dim=6)), ("small", dict(vocabulary=SIZE - 1))):
    tower = as_weights("clip_text_b", size=16, classes=(), **(TEXT | keywords))
    checkpoint.save_weights(tower, tmp_path / name)
  if (tmp_path / change.get("text", "nowhere")).exists():
    change = dict(text=str(tmp_path / change["text"]))
  head = dict(make=".studies.patching.zero_shot", subset=True, **files) | change
  with pytest.raises(error, match=message) as caught:
    study.run_study(whole(config(files, start, head=head)), workdir=tmp_path / "run", runtime=runtime())
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "run").exists()


def test_a_check_of_the_config_tells_missing_files_and_refuses_wrong_class_names(files, start, runtime):
  def told(**change):
    head = dict(make=".studies.patching.zero_shot", subset=True, **files) | change
    return describe.describe(whole(config(files, start, head=head)), runtime())

  assert "missing" not in told()
  text = told(vocabulary="no.txt", text="nowhere")
  assert "missing    no vocabulary at no.txt" in text
  assert "missing    no text tower at nowhere" in text
  with pytest.raises(DataError, match=r"the head of new: the prompts .* are for 3 classes"):
    told(subset=False)


def test_the_number_of_classes_that_the_config_gives_is_enough_to_refuse_them(files, start, runtime):
  base = config(files, "nowhere", head=dict(make=".studies.patching.zero_shot", **files))
  base["patching"]["new"]["test"]["num_classes"] = 2
  with pytest.raises(
    DataError, match=r"the head of new: .* are for 3 classes, and the data have 2; write subset=True.* other"
  ):
    describe.describe(whole(base), runtime())
  base["patching"]["new"]["test"]["num_classes"] = 3
  assert "missing" in describe.describe(whole(base), runtime())


def test_a_head_of_ones_own_may_tell_what_it_cannot_be_made_of(start):
  class Picky:
    def __call__(self, around):
      raise NotImplementedError

    def check(self, around):
      raise DataError(f"not {around.name}")

    def check_count(self, count):
      raise DataError(f"not {count} classes")

    def missing(self):
      return ["no luck"]

  around = frozen_heads.HeadInputs("new", checkpoint.load(start), "head", ("a",), lambda: None)
  for head in (Picky(), functools.partial(Picky(), much=True)):
    with pytest.raises(DataError, match="not new"):
      frozen_heads.check(head, around)
    with pytest.raises(DataError, match="not 3 classes"):
      frozen_heads.check_count(head, 3)
    frozen_heads.check_count(head, None)
    assert frozen_heads.missing(head) == ["no luck"]


def test_a_head_that_tells_nothing_is_not_asked(start):
  around = frozen_heads.HeadInputs("new", checkpoint.load(start), "head", ("a",), lambda: None)
  frozen_heads.check(lambda around: {}, around)
  frozen_heads.check_count(lambda around: {}, 3)
  assert frozen_heads.missing(lambda around: {}) == []


@pytest.mark.parametrize("keywords", [{}, dict(l2=(1.0,))])
def test_a_probe_needs_training_images_with_keywords_or_without(keywords):
  weights = as_weights("clip_vit_b32", size=8, classes=("a", "b"), head="linear", **IMAGE)
  head = spec(dict(fn=".studies.patching.linear_probe", **keywords)).realize()
  around = frozen_heads.HeadInputs("new", weights, "head", ("a",), lambda: None, has_images=False)
  with pytest.raises(ConfigError, match="the task 'new' has no training images"):
    frozen_heads.check(head, around)


def test_a_probe_needs_a_head_to_take_the_place_of(start):
  """A tower of CLIP has none where it was imported without."""
  weights = checkpoint.load(start)
  around = frozen_heads.HeadInputs("new", weights, "head", ("a",), lambda: None)
  without = {name: block for name, block in weights.params.items() if name != "head"}
  bare = dataclasses.replace(around, start=dataclasses.replace(weights, params=without))
  with pytest.raises(ConfigError, match=f"needs a linear head, and {weights.path} has none; give the task"):
    frozen_heads.check(frozen_heads.linear_probe, bare)


@pytest.mark.parametrize(("each", "notes"), [(1, 1), (2, 0), (3, 0)])
def test_a_probe_says_where_no_penalty_can_be_chosen(each, notes):
  start = as_weights("clip_vit_b32", size=8, classes=("a", "b"), head="linear", **IMAGE)
  labels = np.arange(2 * each, dtype=np.int32) % 2
  features = np.random.default_rng(0).normal(size=(2 * each, 4)).astype(np.float32)
  said = []
  around = frozen_heads.HeadInputs(
    "new", start, "head", ("a", "b"), lambda: (features, labels), note=said.append
  )
  frozen_heads.linear_probe(around, l2=(0.1, 1.0, 10.0), max_iters=5)
  assert len(said) == notes
  assert all("new: one training image per class, so no penalty can be chosen; using 1" in one for one in said)
