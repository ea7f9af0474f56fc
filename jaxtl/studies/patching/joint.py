"""Fine-tunes on all patching tasks at once: images in equal shares, heads side by side."""

from __future__ import annotations

import collections
import dataclasses
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxtl import config as config_lib
from jaxtl import data as data_lib
from jaxtl import losses, tasks
from jaxtl.config import Spec, call
from jaxtl.errors import ConfigError
from jaxtl.studies.patching.fine_tuning import fine_tuning
from jaxtl.studies.patching.settings import Patching
from jaxtl.train.experiment import Experiment

Transforms = tuple[Spec, ...]
KINDS = ("transforms", "batch_transforms")


class Shared(NamedTuple):
  """The transforms that all patching tasks share.

  Attributes:
    transforms, batch_transforms: those that every task has, in order.
    left_out: {task: its augmentations that another task lacks, as short calls}.
  """

  transforms: Transforms
  batch_transforms: Transforms
  left_out: dict[str, list[str]]


def joint_experiment(study: Patching, model: Spec, head: str, *, sizes: Mapping[str, int]) -> Experiment:
  """Returns the fine-tuning on all patching tasks, with the transforms that they share.

  Batches hold the tasks in equal shares. Cherti et al., "Reproducible scaling laws for contrastive
  language-image learning", 2022, arXiv 2212.07143, appendix B.2.2, instead take a batch of each task in turn,
  which is the same on average.

  Args:
    study: its recipe and its patching tasks; the batch size is that of the first task.
    model: makes the backbone.
    head: its name among the parameters.
    sizes: {patching task: number of its classes}.

  Raises:
    ConfigError: as for `shared_transforms`.
  """
  one = fine_tuning(study, next(iter(study.patching)), model, head)
  sources = {name: task.train.source for name, task in study.patching.items() if task.train}
  shared = shared_transforms(study)
  data = dataclasses.replace(
    one.data,
    source=Spec(".data.joined", "make", {"sources": sources, "name": "joint"}, data_lib.joined),
    transforms=shared.transforms,
    batch_transforms=shared.batch_transforms,
    # Facts that the config states for the first task do not hold for all of them.
    num_examples=None,
    num_classes=None,
  )
  grouped = {"sizes": tuple(sizes[name] for name in sources)}
  loss = Spec(".losses.grouped_cross_entropy", "fn", grouped, losses.grouped_cross_entropy)
  keywords = {"loss": loss, "frozen_stats": one.task.keywords.get("frozen_stats", True)}
  task = Spec(".tasks.classification", "make", keywords, tasks.classification)
  return dataclasses.replace(one, task=task, data=data)


def shared_transforms(study: Patching) -> Shared:
  """Returns the transforms that all patching tasks apply to their training images.

  Tasks may differ in augmentations. An augmentation that some task lacks is omitted, because it might harm
  that task.

  Raises:
    ConfigError: the tasks differ in anything else, such as size or normalisation, how often or in what order.
  """
  found: dict[str, Transforms] = {}
  left_out: dict[str, list[str]] = collections.defaultdict(list)
  for kind in KINDS:
    lists = {name: getattr(task.train, kind) for name, task in study.patching.items()}
    found[kind], left = _shared(lists, kind)
    for name, calls in left.items():
      left_out[name] += calls
  return Shared(found["transforms"], found["batch_transforms"], dict(left_out))


def _shared(lists: Mapping[str, Transforms], kind: str) -> tuple[Transforms, dict[str, list[str]]]:
  keys = {name: set(map(_key, theirs)) for name, theirs in lists.items()}
  common = set.intersection(*keys.values())
  kept = {name: tuple(one for one in theirs if _key(one) in common) for name, theirs in lists.items()}
  left_out: dict[str, list[str]] = {}
  for name, theirs in lists.items():
    for one in theirs:
      if _key(one) in common:
        continue
      if not _is_augmentation(one):
        other = next(other for other, has in keys.items() if _key(one) not in has)
        raise _refusal(f"patching.{name}.train.{kind} has {_call(one)}, which {other} does not have")
      left_out.setdefault(name, []).append(_call(one))
  return _the_same(kept, kind), left_out


def _the_same(lists: Mapping[str, Transforms], kind: str) -> Transforms:
  """Returns the transforms of all tasks, which must occur equally often and in the same order."""
  (first, wanted), *others = lists.items()
  keys = list(map(_key, wanted))
  for name, theirs in others:
    found = list(map(_key, theirs))
    counts, expected = collections.Counter(found), collections.Counter(keys)
    for one in theirs:
      here, there = counts[_key(one)], expected[_key(one)]
      if here != there:
        raise _refusal(
          f"patching.{name}.train.{kind} has {_call(one)} {_times(here)}, and that of {first} {_times(there)}"
        )
    if found != keys:
      raise _refusal(
        f"patching.{name}.train.{kind} are in another order than those of {first}: {_calls(theirs)}"
      )
  return wanted


def _refusal(what: str) -> ConfigError:
  return ConfigError(
    f"{what}; joint fine-tuning sees all patching tasks through the same transforms, of which only "
    'augmentations that keep the size may differ: make the others identical, or leave "joint" out of '
    "merging.methods"
  )


def _times(number: int) -> str:
  return "once" if number == 1 else f"{number} times"


def _is_augmentation(transform: Spec) -> bool:
  """Returns whether a transform can be omitted without changing the size and scale of images.

  This holds for a random transform that does not crop to a size.
  """
  return (
    data_lib.draws([transform.realize()]) and "size" not in inspect.signature(transform.target).parameters
  )


def _key(transform: Spec) -> str:
  return json.dumps(config_lib.plain(transform), sort_keys=True)


def _call(transform: Spec) -> str:
  return call(config_lib.plain(transform))


def _calls(transforms: Sequence[Spec]) -> str:
  return ", ".join(map(_call, transforms))
