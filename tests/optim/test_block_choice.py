"""Layers by name."""

import re

import pytest

from jaxtl.errors import ConfigError
from jaxtl.optim import block_choice
from tests.optim.small_chain import KEY, chain

MODEL = chain()
PARAMS, _ = MODEL.init(KEY, None)


@pytest.mark.parametrize(
  ("names", "found"),
  [
    ("second", {"second/bias", "second/kernel"}),
    (("first", "head"), {"first/bias", "first/kernel", "head/bias", "head/kernel"}),
    (r"^third/bias$", {"third/bias"}),
    (("first", r"head/kernel"), {"first/bias", "first/kernel", "head/kernel"}),
  ],
)
def test_names_are_blocks_or_path_regexes(names, found):
  pattern = block_choice.pattern(MODEL, names)
  paths = {f"{block}/{leaf}" for block in MODEL.blocks for leaf in ("kernel", "bias")}
  assert {path for path in paths if re.search(pattern, path)} == found
  rest = block_choice.all_but(pattern)
  assert {path for path in paths if re.search(rest, path)} == paths - found


def test_a_block_is_not_its_longer_namesake():
  model = chain(blocks=("block1", "block11", "head"))
  assert not re.search(block_choice.pattern(model, "block1"), "block11/kernel")
  assert block_choice.pattern(model, None) is None


def test_the_lowest_blocks_are_told():
  found = block_choice.find(
    MODEL, PARAMS, perturb="^(third|head)/", update="^(second|third)/bias", moves_alone=False
  )
  assert found[2:] == ("third", "second", "second")
  found = block_choice.find(MODEL, PARAMS, perturb="^second/", update="^head/", moves_alone=False)
  assert found[2:] == ("second", "head", "second")
  found = block_choice.find(MODEL, PARAMS, perturb="^second/", update="^head/", moves_alone=True)
  assert found.cut == "head"


def test_a_name_near_a_block_is_answered_with_it():
  with pytest.raises(ConfigError, match="chain has no block 'thrid'; did you mean 'third'"):
    block_choice.pattern(MODEL, "thrid")
