"""Frozen heads, through which one shared backbone answers several data sets.

A head is a function from `HeadInputs` to the parameters of the model's head, so that a config can name it and
fix its keywords. A head may have attributes that report problems before it is made: `check(around)`,
`check_count(count)` and `missing()`. The functions of the same names in this module call them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.data.class_names import same_classes
from jaxtl.errors import ConfigError
from jaxtl.measure.linear_probe import LinearProbe
from jaxtl.types import Params
from jaxtl.zero_shot import from_files


@dataclasses.dataclass(frozen=True, eq=False)
class HeadInputs:
  """The inputs from which a head can be made.

  Attributes:
    name: name of the task, for messages.
    start: the backbone's checkpoint, including its own head.
    head: the name of the head among its parameters.
    classes: the task's class names.
    features: returns the backbone's pooled features [N, D] of the training images, not augmented, and their
      labels [N]; raises ConfigError if the task has no training images.
    seed: seed of the run.
    beat: called after every progress.
    has_images: whether the task has training images.
    note: receives a line for the user.
  """

  name: str
  start: Weights
  head: str
  classes: tuple[str, ...]
  features: Callable[[], tuple[np.ndarray, np.ndarray]]
  seed: int = 0
  beat: Callable[[], None] = lambda: None
  has_images: bool = True
  note: Callable[[str], None] = lambda text: None


Head = Callable[[HeadInputs], Params]
Function = TypeVar("Function", bound=Callable[..., Params])


def no_images(name: str) -> ConfigError:
  """Returns the error for a task that needs training images and has none."""
  return ConfigError(f"the task {name!r} has no training images; give it train=dict(source=...)")


def _checked_by(check: Callable[[HeadInputs], None]) -> Callable[[Function], Function]:
  """Returns a decorator that gives a function its `check(around)`."""

  def give(head: Function) -> Function:
    vars(head)["check"] = check
    return head

  return give


def _check_probe(around: HeadInputs) -> None:
  found = sorted(around.start.params.get(around.head, {}))
  if found != ["bias", "kernel"]:
    there = (
      f"that of {around.start.path} has {' and '.join(found)}" if found else f"{around.start.path} has none"
    )
    raise ConfigError(
      f"a linear probe needs a linear head, and {there}; give the task a head of another kind"
    )
  if not around.has_images:
    raise no_images(around.name)


def _check_own(around: HeadInputs) -> None:
  same_classes(around.start.classes, around.classes, at=around.name)


@_checked_by(_check_probe)
def linear_probe(
  around: HeadInputs,
  *,
  l2: tuple[float, ...] = LinearProbe.l2,
  held_out: float = LinearProbe.held_out,
  max_iters: int = LinearProbe.max_iters,
) -> Params:
  """Fits a head to the backbone's features: logistic regression, as in `LinearProbe`.

  The probe works on standardised features; their mean and scale are folded into kernel and bias.

  Args:
    around: the task and its features.
    l2: candidate penalties.
    held_out: share of the training examples on which the choice is made.
    max_iters: maximum number of L-BFGS steps.

  Returns:
    {"kernel": [D, K], "bias": [K]}.

  Raises:
    ConfigError: a keyword is out of its range, or the backbone's head is not linear.
  """
  probe = LinearProbe(tuple(l2), held_out, max_iters)
  _check_probe(around)
  features, labels = around.features()
  chosen, penalty, by = probe.choose(
    features, labels, num_classes=len(around.classes), seed=around.seed, beat=around.beat
  )
  if by == "nothing":
    around.note(
      f"{around.name}: one training image per class, so no penalty can be chosen; using {penalty:g}"
    )
  return chosen.head()


def zero_shot(*, text: str, vocabulary: str, prompts: str, subset: bool = False) -> Head:
  """Returns heads that a text tower computes from class names.

  A config uses it as `dict(make=".studies.patching.zero_shot", ...)`. `zero_shot.zero_shot` documents the
  keywords and the head. The backbone must be an image tower of CLIP that normalises the input of its head:
  `jaxtl import FILE --as clip_vit_b32 head=scaled_cosine`.

  Raises:
    ConfigError: the prompts cannot be used; later, the backbone has another kind of head.
  """
  return ZeroShotHead(from_files.zero_shot(text=text, vocabulary=vocabulary, prompts=prompts, subset=subset))


@dataclasses.dataclass(frozen=True)
class ZeroShotHead:
  """The head that `zero_shot` returns."""

  make: from_files.ZeroShot

  def __call__(self, around: HeadInputs) -> Params:
    self.check(around)
    return self.make(around.classes)

  def check(self, around: HeadInputs) -> None:
    """Refuses, without a forward pass, a backbone, words or files that do not suit the head."""
    kind = around.start.config["model"].get("head", "linear")
    if kind != "scaled_cosine":
      raise ConfigError(
        f"zero-shot heads need a backbone with head=scaled_cosine, and {around.start.path} has head={kind}; "
        "import it with head=scaled_cosine after the options"
      )
    from_files.check_width(around.start, self.make.check(around.classes))

  def check_count(self, count: int) -> None:
    """Refuses data with `count` classes if the words are for another number."""
    self.make.check_count(count)

  def missing(self) -> list[str]:
    return self.make.missing()


@_checked_by(_check_own)
def own(around: HeadInputs) -> Params:
  """Returns the head that the checkpoint was trained with, for a task with the checkpoint's own classes.

  Raises:
    DataError: the class lists differ.
  """
  _check_own(around)
  return around.start.params[around.head]


def check(head: Head, around: HeadInputs) -> None:
  """Refuses inputs that do not suit a head, if this is known before the head is made.

  It raises the errors of the head.
  """
  if told := _told_by(head, "check"):
    told(around)


def check_count(head: Head, count: int | None) -> None:
  """Refuses the number of classes that the config states for the data; None if it states none."""
  told = _told_by(head, "check_count")
  if told and count is not None:
    told(count)


def missing(head: Head) -> list[str]:
  """Lists the missing files that the head needs."""
  told = _told_by(head, "missing")
  return list(told()) if told else []


def _told_by(head: Head, name: str) -> Callable[..., Any] | None:
  """Returns an attribute of a head; a partial has the attributes of its function."""
  found: Callable[..., Any] | None = getattr(head, name, None)
  return _told_by(head.func, name) if found is None and isinstance(head, functools.partial) else found
