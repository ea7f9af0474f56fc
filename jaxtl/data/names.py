"""Names from the disk and from class lists: their printable form, and which of them name splits."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from jaxtl.errors import printable

# The rank of a split's kind is its index here.
_KINDS = (
  ("train", {"train", "training", "trn", "trainval"}),
  ("val", {"val", "valid", "validation", "validate", "dev", "eval", "evaluation", "holdout", "heldout"}),
  ("test", {"test", "testing", "tst"}),
)
# Words that may follow the name of a split: train_set, test_images, val_data.
_FILLERS = {"set", "split", "data", "dataset", "images", "image", "imgs", "img", "folder"}


def shown(name: str | Path) -> str:
  """Returns a name as one line of text in NFC, escaped as by `printable`.

  File systems store a name in different normal forms; names are compared in this one. The function is
  idempotent.
  """
  text = str(name)
  if text.isascii() and text.isprintable():
    return text
  return unicodedata.normalize("NFC", printable(text))


def split_kind(name: str) -> str | None:
  """Returns "train", "val" or "test" for a name like train, valid, test_images or val2017, else None."""
  kinds = split_words(name)
  words = [word for word in _words(name) if word not in _FILLERS]
  return kinds[0] if len(kinds) == len(words) == 1 else None


def splits_of_kind(splits: Iterable[str], kind: str) -> list[str]:
  """Returns the names of the splits of a kind, "train", "val" or "test", in order."""
  return [name for name in splits if split_kind(name) == kind]


def split_words(name: str) -> list[str]:
  """Returns the kind of each word in a name that denotes a split: ["train"] for seg_train."""
  return [kind for word in _words(name) for kind, words in _KINDS if word in words]


def split_rank(name: str) -> int:
  """Returns the sort rank of a split: training, then validation, test and the rest."""
  kinds = [kind for kind, _ in _KINDS]
  kind = split_kind(name)
  return kinds.index(kind) if kind else len(kinds)


def _words(name: str) -> list[str]:
  words = [word for word in re.split(r"[^a-z]+", name.casefold()) if word]
  glued = [re.sub(r"^([a-z]+?)(set|split|data|images)$", r"\1", word) for word in words]
  return [short if any(short in known for _, known in _KINDS) else word for short, word in zip(glued, words)]
