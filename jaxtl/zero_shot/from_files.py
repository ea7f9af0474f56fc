"""Zero-shot heads from files: a text tower's checkpoint, its vocabulary and a set of prompts."""

from __future__ import annotations

import collections
import dataclasses
import functools
import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxtl.checkpoints import checkpoint
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.config import Spec
from jaxtl.data.class_names import class_key
from jaxtl.errors import CheckpointError, DataError, few
from jaxtl.zero_shot.head import check_vocabulary, zero_shot_head
from jaxtl.zero_shot.prompts import Prompts, read_prompts
from jaxtl.zero_shot.tokenizer import tokenizer

Head = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class ZeroShot:
  """A function that makes the head for a list of classes; see `zero_shot`."""

  text: str
  vocabulary: str
  name: str
  prompts: Prompts
  subset: bool

  def __call__(self, classes: Sequence[str] | None = None, *, trust: bool = False) -> dict[str, np.ndarray]:
    """Makes the head for the classes of a data set, in their order; it is cached in the process.

    Args:
      classes: the names in the data set; None takes those of the prompts, in their own order.
      trust: allows any model that the checkpoint's config names, not only those of the library.

    Returns:
      {"kernel": float32 [D, K], "log_scale": float32 []}; see `zero_shot.zero_shot_head`.

    Raises:
      DataError: the classes are not those of the prompts.
      CheckpointError: there is no checkpoint, or it holds no text tower.
      InputError: the vocabulary cannot be read, or is not the tower's.
    """
    return dict(_head(self.text, self.vocabulary, self.prompts, self.names(classes), trust))

  def check(self, classes: Sequence[str], *, trust: bool = False) -> int:
    """Refuses what a call would refuse, without a forward pass; returns the width D of the embeddings."""
    self.names(classes)
    return _width(self.text, self.vocabulary, trust)

  def check_count(self, count: int) -> None:
    """Raises DataError if data with `count` classes cannot have the classes of the prompts."""
    known = self.prompts.classes
    if known is None or count == len(known) or (self.subset and count < len(known)):
      return
    part = "subset=True (--subset), if they are some of those, or " if count < len(known) else ""
    raise DataError(
      f"the prompts {self.name!r} are for {len(known)} classes, and the data have {count}; write {part}other "
      "prompts"
    )

  def missing(self) -> list[str]:
    """Lists what is still missing, with one line for each file."""
    found = []
    try:
      checkpoint.find(self.text)
    except CheckpointError:
      found.append(f"no text tower at {self.text}: import it with --as clip_text_b or clip_text_l")
    if not Path(os.path.expanduser(self.vocabulary)).exists():
      found.append(f"no vocabulary at {self.vocabulary}")
    return found

  def names(self, classes: Sequence[str] | None = None) -> tuple[str, ...]:
    """Returns the words for the classes of a data set, in their order.

    A class is found by the name that the prompts have for it or by its label. Case, spaces and punctuation
    are ignored, and a WordNet id stands for the whole name. Classes that are all numbers are found by
    position.

    Raises:
      DataError: a class is unknown, the number of classes differs, or there are none.
    """
    known = self.prompts.classes
    if classes is None:
      if known is None:
        raise DataError(f"the prompts {self.name!r} name no classes, and no data set does; give them classes")
      return known
    if known is None:
      return tuple(name.replace("_", " ") for name in classes)
    self.check_count(len(classes))
    found = _found(classes, known, self.prompts.labels)
    if unknown := [name for name, number in zip(classes, found) if number is None]:
      raise DataError(
        f"the prompts {self.name!r} have no class {few(unknown)}; write a JSON file of prompts with the "
        "data's own names as labels"
      )
    chosen = [number for number in found if number is not None]
    if twice := [number for number in chosen if chosen.count(number) > 1]:
      raise DataError(f"two of the data's classes are {known[twice[0]]!r} of the prompts {self.name!r}")
    return tuple(known[number] for number in chosen)


def zero_shot(*, text: str, vocabulary: str, prompts: str, subset: bool = False) -> ZeroShot:
  """Returns a function that makes zero-shot heads: `head = zero_shot(...)(source.classes)`.

  Args:
    text: checkpoint of a text tower, as `jaxtl import --as clip_text_b` or `clip_text_l` makes it.
    vocabulary: path of the tower's vocabulary; see `zero_shot.tokenizer`.
    prompts: name of a set of `zero_shot.prompt_sets`, or path of a JSON file; see `zero_shot.read_prompts`.
    subset: whether the data may have only some of the prompts' classes.

  Raises:
    ConfigError: the prompts cannot be used. The other files are read when a head is made.
  """
  return ZeroShot(text, vocabulary, prompts, read_prompts(prompts), subset)


def with_head(weights: Weights, head: Head, classes: Sequence[str]) -> Weights:
  """Returns an image tower of CLIP with `head` in place of any head it had.

  Args:
    weights: of a model that takes `head` and `embed_dim`.
    head: kernel [D, K] and scale, as `ZeroShot` makes them.
    classes: K names, as in the data set.

  Raises:
    CheckpointError: as `check_width`.
  """
  check_width(weights, head["kernel"].shape[0])
  model = {**weights.config["model"], "head": "scaled_cosine"}
  config = {**weights.config, "model": model, "classes": list(classes)}
  return dataclasses.replace(weights, params={**weights.params, "head": dict(head)}, config=config)


def check_width(weights: Weights, width: int) -> None:
  """Refuses weights that do not embed images in `width` dimensions, as the text tower embeds texts.

  Raises:
    CheckpointError: the weights are not an image tower of CLIP, or their embeddings have another width.
  """
  projection = weights.params.get("projection", {}).get("kernel")
  if projection is None or "embed" not in weights.params or "tokens" in weights.params["embed"]:
    raise CheckpointError(f"{weights.path} is not an image tower of CLIP; import one with --as clip_vit_b32")
  if projection.shape[-1] != width:
    raise CheckpointError(
      f"{weights.path} embeds images in {projection.shape[-1]} dimensions, and the text tower its texts in "
      f"{width}; they do not belong together"
    )


@functools.lru_cache(maxsize=64)  # the arms and seeds of a study ask for the same ones
def _head(
  text: str, vocabulary: str, prompts: Prompts, names: tuple[str, ...], trust: bool
) -> Mapping[str, np.ndarray]:
  weights, spec = _text_tower(text, trust)
  # In float32, the default, whatever the tower was trained in.
  exact = {name: value for name, value in spec.keywords.items() if name != "dtype"}
  tower = dataclasses.replace(spec, keywords=exact).realize()
  tokens = tokenizer(vocabulary=vocabulary)
  return zero_shot_head(tower, weights.params, names, prompts, tokenizer=tokens)


@functools.lru_cache(maxsize=64)  # the tasks of a study have the same tower, which takes a second to read
def _width(text: str, vocabulary: str, trust: bool) -> int:
  """Checks that a tower and a vocabulary belong together, and returns the width of the embeddings."""
  weights, _ = _text_tower(text, trust)
  check_vocabulary(weights.params, tokenizer(vocabulary=vocabulary))
  return int(weights.params["projection"]["kernel"].shape[-1])


def _text_tower(text: str, trust: bool) -> tuple[Weights, Spec]:
  weights = checkpoint.load(text)
  spec = weights.model_spec(trust=trust)
  if "context" not in inspect.signature(spec.target).parameters:
    raise CheckpointError(
      f"{text} holds {spec.path}, which is not a text tower; import one with --as clip_text_b or clip_text_l"
    )
  return weights, spec


def _found(classes: Sequence[str], known: Sequence[str], labels: Sequence[str] | None) -> list[int | None]:
  """Returns the number of each class among the known ones; None for an unknown class."""
  names = collections.Counter(map(_key, known))
  numbers = {key: number for number, key in enumerate(map(_key, known)) if names[key] == 1}
  numbers |= {_key(label): number for number, label in enumerate(labels or ())}
  keys = [_key(name) for name in classes]
  if all(key.isdecimal() for key in keys) and not numbers.keys() & set(keys):
    return [int(key) if int(key) < len(known) else None for key in keys]
  return [numbers.get(key) for key in keys]


def _key(name: str) -> str:
  """Returns the key by which classes are compared: letters and digits, in one case."""
  return "".join(sign for sign in class_key(name).casefold() if sign.isalnum())
