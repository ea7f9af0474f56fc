"""Texts as the token ids that CLIP's text towers were trained with.

Byte-pair encoding: Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units",
2016, arXiv 1508.07909, over the bytes of lower-case text, as Radford et al., "Learning Transferable Visual
Models From Natural Language Supervision", 2021, arXiv 2103.00020, use it. The package `tokenizers` does the
merging.
"""

from __future__ import annotations

import dataclasses
import gzip
import html
import json
import os
import unicodedata
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxtl.errors import ConfigError, InputError

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
# OpenAI's file lists 262,144 merges, and their models use only this many of the first ones: 49,408 tokens
# with the bytes, the bytes that end a word, and the two marks.
MOST_MERGES = 49_408 - 2 * 256 - 2
# Merges stay within one of these: a shortened verb, letters, one digit, other characters.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
_KNOWN = "CLIP's bpe_simple_vocab_16e6.txt.gz, or a Hugging Face tokenizer.json or merges.txt"
Merges = list[tuple[str, str]]


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
  """A function from texts to token ids, for one vocabulary.

  Attributes:
    path: the file of the vocabulary.
    size: number of tokens.
    start, end: the ids of the marks around a text; `end` is the largest id.
    encoder: the merges, of the package `tokenizers`.
  """

  path: str
  size: int
  start: int
  end: int
  encoder: Any

  def __call__(self, texts: Sequence[str], *, context: int = 77) -> np.ndarray:
    """Returns token ids int32 [N, context]: start, the tokens of the text, end, zeros.

    A text that is too long loses its last tokens but still ends with the end mark. Marks that are written out
    in a text are plain characters, as in open_clip: no text can end itself.

    Args:
      texts: N texts, cleaned here (see `cleaned`).
      context: length of the rows; 77 in every published CLIP.

    Raises:
      ConfigError: `context` has no room for the marks.
    """
    if context < 2:
      raise ConfigError(f"context is {context}; the marks around a text need 2 tokens")
    rows = np.zeros((len(texts), context), np.int32)
    for row, text in zip(rows, texts):
      inside = self.encoder.encode(cleaned(text), add_special_tokens=False).ids[: context - 2]
      row[: len(inside) + 2] = [self.start, *inside, self.end]
    return rows


def tokenizer(*, vocabulary: str) -> Tokenizer:
  """Makes the tokenizer of a vocabulary file.

  Args:
    vocabulary: path of a list of merges, compressed with gzip or not (OpenAI's
      `bpe_simple_vocab_16e6.txt.gz`, of which the first 48,894 count, or a Hugging Face `merges.txt`), or of
      a Hugging Face `tokenizer.json`.

  Raises:
    InputError: there is no such file, it holds no such vocabulary, or the package `tokenizers` is missing.
  """
  path = Path(os.path.expanduser(vocabulary))
  text = _read(path)
  tokens, merges = _of_json(text, path) if text.lstrip().startswith("{") else _of_merges(text, path)
  end = tokens.get(END, -1)
  if START not in tokens or end != max(tokens.values()):
    raise InputError(f"{path} has no {START}, or {END} is not its last token, as CLIP's text towers require")
  return Tokenizer(str(path), end + 1, tokens[START], end, _encoder(tokens, merges, path))


def cleaned(text: str) -> str:
  """Returns the text as CLIP reads it: HTML entities resolved, composed (NFC), single spaces, lower case.

  Text in a wrong encoding is not repaired; OpenAI's own code uses the package ftfy for that.
  """
  plain = html.unescape(html.unescape(text))
  return " ".join(unicodedata.normalize("NFC", plain).split()).lower()


def _read(path: Path) -> str:
  try:
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
      content = gzip.decompress(content)
    return content.decode("utf-8")
  except FileNotFoundError:
    raise InputError(f"there is no vocabulary at {path}; give {_KNOWN}") from None
  except (EOFError, OSError, UnicodeDecodeError, zlib.error) as error:
    raise InputError(f"{path} cannot be read as a vocabulary: {error}; give {_KNOWN}") from error


def _of_merges(text: str, path: Path) -> tuple[dict[str, int], Merges]:
  """Builds the vocabulary of a list of merges: bytes, bytes that end a word, merges, marks."""
  lines = text.split("\n")
  first = 1 if "#version" in lines[0] else 0
  merges: Merges = []
  for number, line in enumerate(lines[first : first + MOST_MERGES], first + 1):
    pair = line.split()
    if len(pair) != 2 and line.strip():
      raise InputError(f"{path}: line {number} is {line[:40]!r}, not a merge of two tokens; give {_KNOWN}")
    merges += [(pair[0], pair[1])] if pair else []
  if not merges:
    raise InputError(f"{path} lists no merges; give {_KNOWN}")
  alphabet = _alphabet()
  names = [*alphabet, *(sign + WORD_END for sign in alphabet), *(a + b for a, b in merges), START, END]
  tokens = {name: number for number, name in enumerate(names)}
  if len(tokens) != len(names):
    raise InputError(f"{path}: two merges make the same token")
  return tokens, merges


def _of_json(text: str, path: Path) -> tuple[dict[str, int], Merges]:
  """Reads the vocabulary and the merges of a `tokenizer.json`."""
  try:
    model = json.loads(text)["model"]
    merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
    tokens = {str(name): int(number) for name, number in model["vocab"].items()}
    if model["end_of_word_suffix"] != WORD_END or any(len(pair) != 2 for pair in merges):
      raise ValueError("it is for another kind of model")
    if missing := [sign for sign in _alphabet() if not {sign, sign + WORD_END} <= tokens.keys()]:
      raise ValueError(f"it has no token for {missing[0]!r}")
  except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
    why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
    raise InputError(f"{path} is not a tokenizer.json of CLIP: {why}; give {_KNOWN}") from error
  return tokens, merges


def _alphabet() -> list[str]:
  """Returns the characters for the 256 bytes in the order of their ids; printable bytes stay as they are."""
  return sorted(_tokenizers().pre_tokenizers.ByteLevel.alphabet())


def _encoder(tokens: dict[str, int], merges: Merges, path: Path) -> Any:
  library = _tokenizers()
  try:
    model = library.models.BPE(vocab=tokens, merges=merges, end_of_word_suffix=WORD_END)
  except Exception as error:  # the package raises plain Exceptions
    raise InputError(f"{path} is not a vocabulary: {error}; give {_KNOWN}") from error
  encoder = library.Tokenizer(model)
  words = library.pre_tokenizers.Split(library.Regex(_WORDS), behavior="removed", invert=True)
  signs = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  encoder.pre_tokenizer = library.pre_tokenizers.Sequence([words, signs])
  return encoder


def _tokenizers() -> Any:
  try:
    import tokenizers
  except ImportError as error:
    raise InputError("texts need the package tokenizers; pip install 'jaxtl[text]'") from error
  return tokenizers
