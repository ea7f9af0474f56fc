"""Augmentations in a run: what a config may combine, and that a run with them is as any other."""

import jax
import numpy as np
import pytest

from jaxtl import train
from jaxtl.errors import ConfigError
from jaxtl.train.experiment import rehearse
from tests.small_training import tiny_config

LOSS = dict(fn=".losses.softmax_cross_entropy")
JSD = dict(make=".tasks.classification", loss=LOSS, consistency=12.0)
VIEWS = [dict(fn=".data.aug_mix_jsd"), dict(fn=".data.normalize")]


def with_data(**changes):
  return tiny_config()["data"] | changes


def refused(tiny, runtime, said, **changes):
  """Refused in one line, without data and in a run of its own."""
  experiment = tiny(**changes)
  mesh = runtime().mesh
  for attempt in (
    lambda: rehearse(experiment, num_classes=3, num_examples=96, image_size=8, mesh=mesh),
    lambda: train.run(experiment, seed=0, runtime=runtime()),
  ):
    with pytest.raises(ConfigError, match=said) as raised:
      attempt()
    assert "\n" not in str(raised.value)


def test_views_and_the_task_that_compares_them_need_each_other(tiny, runtime):
  refused(
    tiny, runtime, r"aug_mix_jsd gives views of each image, .* does not use; write .data.aug_mix, or give",
    data=with_data(transforms=VIEWS),
  )  # fmt: skip
  refused(tiny, runtime, r"compares views of an image, .* add .data.aug_mix_jsd", task=JSD)


def test_a_task_without_mixed_labels_refuses_what_mixes_them(tiny, runtime):
  mix = dict(fn=".data.one_of_batch", transforms=[dict(fn=".data.cutmix"), dict(fn=".data.mixup")])
  refused(
    tiny, runtime, r".data.one_of_batch gives mixed labels, which the task .* does not use; leave it out",
    task=dict(make="tests.train.test_augmentation.unmixed"), data=with_data(batch_transforms=[mix]),
  )  # fmt: skip


def unmixed():
  """A classification that reads only whole labels."""
  import dataclasses

  from jaxtl import losses, tasks

  return dataclasses.replace(tasks.classification(loss=losses.softmax_cross_entropy), reads=())


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    (dict(transforms=[dict(fn=".data.rand_augment", magnitude=30.0)]), "magnitude is 30; expected 0 to 10"),
    (dict(batch_transforms=[dict(fn=".data.timm_mix")], batch_size=15), "gets 15 rows; expected an even"),
    (dict(batch_transforms=[dict(fn=".data.mixup")] * 2), "would mix the labels twice"),
    (dict(transforms=[*VIEWS, dict(fn=".data.flip_left_right")]), "would change the image but not its views"),
  ],
)
def test_mistakes_show_before_anything_is_trained(tiny, runtime, changes, said):
  refused(tiny, runtime, said, data=with_data(**changes))


def test_a_policy_without_such_a_name_is_refused_with_the_config(tiny):
  with pytest.raises(ConfigError, match="policy is 'svhn'; expected one of 'imagenet', 'cifar10'"):
    tiny(data=with_data(transforms=[dict(fn=".data.auto_augment", policy="svhn")]))


@pytest.mark.slow
def test_views_train_the_same_on_one_device_and_on_two(tiny, runtime):
  experiment = tiny(task=JSD, data=with_data(transforms=VIEWS), epochs=3 * 16 / 96)
  found = [train.run(experiment, seed=0, runtime=runtime(n)) for n in (1, 2)]
  assert np.isfinite(found[0].last("train/loss"))
  one, two = (run.weights.params for run in found)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), one, two)


@pytest.mark.slow
@pytest.mark.parametrize(
  "mix",
  [
    dict(fn=".data.timm_mix", mixup_alpha=0.8, cutmix_alpha=1.0, mode="pair", smoothing=0.1),
    dict(fn=".data.one_of_batch", transforms=[dict(fn=".data.cutmix"), dict(fn=".data.mixup", alpha=1.0)]),
  ],
  ids=["timm_mix", "one_of_batch"],
)
def test_mixed_runs_learn_and_report_no_accuracy_of_their_batches(tiny, runtime, mix):
  data = with_data(batch_transforms=[mix])
  trained = train.run(tiny(data=data, epochs=8.0), seed=0, runtime=runtime())
  assert trained.last("eval/test/top1") > 0.8
  logged = {name for record in trained.history for name in record}
  assert "train/loss" in logged
  assert "train/accuracy" not in logged
