"""Texts as token ids, against byte-pair encoding written down once more, and files that are no vocabulary."""

import gzip
import itertools
import json
import re
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxtl import zero_shot
from jaxtl.errors import ConfigError, InputError
from jaxtl.zero_shot.tokenizer import MOST_MERGES, cleaned
from tests.zero_shot.made_text import END, MERGES, SIZE, START, save_vocabulary

# The 256 bytes in the order of their ids: printable ones as themselves, the others after them.
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = PRINTABLE + [byte for byte in range(256) if byte not in PRINTABLE]
SIGNS = [chr(byte) for byte in PRINTABLE] + [chr(256 + i) for i in range(256 - len(PRINTABLE))]
NAMES = [*SIGNS, *(sign + "</w>" for sign in SIGNS), *("".join(line.split()) for line in MERGES)]
TEXTS = st.text(st.sampled_from("acdhoptuéß日 12.'s!_-\n☕"), max_size=30)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
  return zero_shot.tokenizer(vocabulary=save_vocabulary(tmp_path_factory.mktemp("text") / "merges.txt"))


def ids(tokenizer, text, *, context=200):
  """The ids between the marks."""
  row = tokenizer([text], context=context)[0]
  return list(row[1 : np.argmax(row == tokenizer.end)])


def merged(word):
  """Byte-pair encoding of one word: the earliest merge of the list first, as often as there is one."""
  parts = [SIGNS[BYTES.index(byte)] for byte in word.encode()]
  parts[-1] += "</w>"
  ranks = {tuple(line.split()): rank for rank, line in enumerate(MERGES)}
  while found := [(ranks[pair], at) for at, pair in enumerate(itertools.pairwise(parts)) if pair in ranks]:
    _, at = min(found)
    parts[at : at + 2] = [parts[at] + parts[at + 1]]
  return [NAMES.index(part) for part in parts]


def test_a_vocabulary_is_bytes_then_merges_then_marks(small):
  assert (small.size, small.start, small.end) == (SIZE, START, END) == (514 + len(MERGES), SIZE - 2, SIZE - 1)
  assert ids(small, "!") == [256]  # the first printable sign, at the end of a word
  assert ids(small, "photo cat") == [NAMES.index("photo</w>"), NAMES.index("cat</w>")]


@given(text=TEXTS)
def test_tokens_are_those_of_the_greedy_merges(small, text):
  words = re.findall(r"'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|(?:[^\w\s]|_)+", cleaned(text))
  assert ids(small, text) == [token for word in words for token in merged(word)]


@given(text=TEXTS)
def test_tokens_spell_the_text(small, text):
  spelled = "".join(NAMES[token] for token in ids(small, text)).replace("</w>", "")
  back = bytes(BYTES[SIGNS.index(sign)] for sign in spelled)
  assert back.decode() == "".join(cleaned(text).split())


@given(texts=st.lists(TEXTS, max_size=4), context=st.integers(2, 12))
def test_rows_are_marked_and_filled_up_and_what_is_too_long_is_cut(small, texts, context):
  rows = small(texts, context=context)
  assert rows.shape == (len(texts), context)
  assert rows.dtype == np.int32
  for row, text in zip(rows, texts):
    inside = ids(small, text)[: context - 2]
    np.testing.assert_array_equal(row, [START, *inside, END, *[0] * (context - 2 - len(inside))])


def test_the_context_is_clip_s_unless_told_otherwise(small):
  assert small(["a"]).shape == (1, 77)
  with pytest.raises(ConfigError, match="context is 1; the marks around a text need 2 tokens"):
    small(["a"], context=1)


@pytest.mark.parametrize(
  ("text", "same"),
  [
    ("The  CAT\n", "the cat"),
    ("&lt;cat&gt;", "<cat>"),
    ("cat &amp;amp; dog", "cat & dog"),
    ("cafe\N{COMBINING ACUTE ACCENT}", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"),
    ("\N{NO-BREAK SPACE}a\tb", "a b"),
  ],
)
def test_case_spaces_and_spellings_do_not_count(small, text, same):
  assert cleaned(text) == same
  assert ids(small, text) == ids(small, same)


def test_a_text_cannot_end_itself(small):
  row = small(["a <|endoftext|> b"])[0]
  assert np.sum(row == END) == np.sum(row == START) == 1


def test_packed_lists_and_tokenizer_json_say_the_same(small, tmp_path):
  packed = tmp_path / "bpe.txt.gz"
  packed.write_bytes(gzip.compress("\n".join(['"made.txt#version: 0.2', *MERGES]).encode()))
  model = dict(type="BPE", end_of_word_suffix="</w>", merges=[line.split() for line in MERGES])
  model["vocab"] = {name: i for i, name in enumerate([*NAMES, "<|startoftext|>", "<|endoftext|>"])}
  (tmp_path / "new.json").write_text(json.dumps(dict(model=model)))
  (tmp_path / "old.json").write_text(json.dumps(dict(model=model | dict(merges=MERGES))))
  for name in ("bpe.txt.gz", "new.json", "old.json"):
    other = zero_shot.tokenizer(vocabulary=str(tmp_path / name))
    assert other.size == small.size
    np.testing.assert_array_equal(other(["the blurry dog's photo 12"]), small(["the blurry dog's photo 12"]))


def test_only_as_many_merges_count_as_openai_s_models_know(tmp_path):
  # Their file goes on far behind the last token that their models have.
  signs = [chr(256 + i) for i in range(68)] + [chr(code) for code in PRINTABLE]
  pairs = [f"{a} {b}" for a in signs for b in signs][: MOST_MERGES + 7]
  (tmp_path / "long.txt").write_text("\n".join(["#version: 0.2", *pairs]), encoding="utf-8")
  assert zero_shot.tokenizer(vocabulary=str(tmp_path / "long.txt")).size == 49_408


EMPTY = b'{"model": {"merges": [], "vocab": {}, "end_of_word_suffix": "</w>"}}'
BAD = {
  "a merge of three": (b"#version: 0.2\na b c\n", "line 2 is 'a b c', not a merge of two tokens"),
  "nothing": (b"", "lists no merges"),
  "twice": (b"a b\nc d\na b\n", "two merges make the same token"),
  "of nothing known": (b"zz yy\n", "is not a vocabulary: "),
  "binary": (b"\xff\xfe\x00", "cannot be read as a vocabulary: "),
  "cut off": (gzip.compress(b"a b\n" * 100)[:20], "cannot be read as a vocabulary: "),
  "other json": (b'{"a": 1}', "is not a tokenizer.json of CLIP: it has no 'model'"),
  "json of another kind": (EMPTY.replace(b"</w>", b""), "it is for another kind of model"),
  "json without bytes": (EMPTY, "it has no token for '!'"),
  "broken json": (b'{"model": ', "is not a tokenizer.json of CLIP: "),
  "a list": (b'{"model": []}', "is not a tokenizer.json of CLIP: "),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_no_vocabulary_is_one_line(tmp_path, case):
  content, message = BAD[case]
  (tmp_path / "vocabulary").write_bytes(content)
  with pytest.raises(InputError) as error:
    zero_shot.tokenizer(vocabulary=str(tmp_path / "vocabulary"))
  assert message in str(error.value)
  assert "\n" not in str(error.value)


def test_a_vocabulary_without_the_marks_at_its_end_is_refused(tmp_path):
  model = dict(merges=[], end_of_word_suffix="</w>")
  for more in ({}, {"<|startoftext|>": 513, "<|endoftext|>": 512}):
    vocab = {name: number for number, name in enumerate(NAMES[:512])} | more
    (tmp_path / "tokenizer.json").write_text(json.dumps(dict(model=model | dict(vocab=vocab))))
    with pytest.raises(InputError, match="is not its last token"):
      zero_shot.tokenizer(vocabulary=str(tmp_path / "tokenizer.json"))


def test_a_missing_file_says_which_files_there_are(tmp_path):
  with pytest.raises(InputError, match=r"there is no vocabulary at .*no\.txt; give CLIP's bpe_simple_vocab"):
    zero_shot.tokenizer(vocabulary=str(tmp_path / "no.txt"))
  with pytest.raises(InputError, match="cannot be read as a vocabulary"):
    zero_shot.tokenizer(vocabulary=str(tmp_path))


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "tokenizers", None)
  with pytest.raises(InputError, match=r"pip install 'jaxtl\[text\]'"):
    zero_shot.tokenizer(vocabulary=save_vocabulary(tmp_path / "merges.txt"))
