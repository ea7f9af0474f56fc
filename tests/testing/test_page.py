"""docs/testing.md names every keyword, and its three lines run."""

import inspect
import re
from pathlib import Path

import pytest

from jaxtl import losses, testing

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## `(\w+)\([^\n]*\n(.*?)(?=^## |\Z)", PAGE, re.S | re.M))


@pytest.mark.parametrize("name", testing.__all__)
def test_a_section_names_every_keyword(name):
  for keyword, parameter in inspect.signature(getattr(testing, name)).parameters.items():
    if parameter.kind is parameter.KEYWORD_ONLY and keyword not in ("num_classes", "reference_floor"):
      assert f"`{keyword}=" in SECTIONS[name], keyword


def test_the_three_lines_run():
  code = re.search(r"```python\n(.*?)```", PAGE, re.S)[1]
  assert len([line for line in code.splitlines() if line]) == 3
  names = {"polyloss": losses.poly1}
  exec(code, names)
  names["test_polyloss"]()


def test_the_line_on_the_page_is_the_one_that_is_raised():
  with pytest.raises(AssertionError) as error:
    testing.check_loss(losses.logit_penalty, num_classes=10)
  shown = re.search(r"```\n(logit_penalty: .*?)\n```", PAGE, re.S)[1].replace("\n", " ")
  numbers = re.compile(r"\d+\.\d+")
  assert numbers.sub("#", shown) == numbers.sub("#", str(error.value))
