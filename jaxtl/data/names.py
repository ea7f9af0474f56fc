"""Names from the disk and from class lists: as text that can be shown, and the names that splits have."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

# The rank of a split's kind is its place here.
_KINDS = (
  ("train", {"train", "training", "trn", "trainval"}),
  ("val", {"val", "valid", "validation", "validate", "dev", "eval", "evaluation", "holdout", "heldout"}),
  ("test", {"test", "testing", "tst"}),
)
# Words that stand beside a split's name and add nothing: train_set, test_images, val2017.
_FILLERS = {"set", "split", "data", "dataset", "images", "image", "imgs", "img", "folder"}
# Line breaks, and marks that turn the direction of the text after them.
_ESCAPED = frozenset("\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def shown(name: str | Path) -> str:
  r"""Returns a name as one line of text in NFC, with "\x83" for a byte that is not UTF-8, "\n" for a newline.

  File systems differ in the normal form that they give names, so the same name is compared in one form. Text
  that is shown already stays as it is.
  """
  text = str(name)
  if text.isascii() and text.isprintable():
    return text
  return unicodedata.normalize("NFC", "".join(map(_escape, text)))


def split_kind(name: str) -> str | None:
  """Returns "train", "val" or "test" for a name like train, valid, test_images or val2017, else None."""
  kinds = split_words(name)
  words = [word for word in _words(name) if word not in _FILLERS]
  return kinds[0] if len(kinds) == len(words) == 1 else None


def split_words(name: str) -> list[str]:
  """Returns the kind of each word in a name that is a split's: ["train"] for seg_train."""
  return [kind for word in _words(name) for kind, words in _KINDS if word in words]


def split_rank(name: str) -> int:
  """Returns the place of a split among others: training, validation, test, the rest."""
  kinds = [kind for kind, _ in _KINDS]
  kind = split_kind(name)
  return kinds.index(kind) if kind else len(kinds)


def _words(name: str) -> list[str]:
  words = [word for word in re.split(r"[^a-z]+", name.casefold()) if word]
  glued = [re.sub(r"^([a-z]+?)(set|split|data|images)$", r"\1", word) for word in words]
  return [short if any(short in known for _, known in _KINDS) else word for short, word in zip(glued, words)]


def _escape(letter: str) -> str:
  if "\udc80" <= letter <= "\udcff":  # Python's sign for a byte that is not UTF-8
    return f"\\x{ord(letter) - 0xDC00:02x}"
  if unicodedata.category(letter) in ("Cc", "Cs") or letter in _ESCAPED:
    return letter.encode("unicode_escape").decode("ascii")
  return letter
