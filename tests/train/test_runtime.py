"""When two class lists are the same, and how a difference is told."""

import pytest

from jaxtl.data.class_names import class_difference, class_key, same_classes
from jaxtl.errors import DataError, few

SALAMANDER = "n01629819 European fire salamander, Salamandra salamandra"


@pytest.mark.parametrize(
  ("name", "key"),
  [
    ("n01629819", "n01629819"),
    (SALAMANDER, "n01629819"),
    ("n01629819x", "n01629819x"),
    ("n016298190", "n016298190"),
    ("n0162981", "n0162981"),
    ("an01629819", "an01629819"),
    ("cat", "cat"),
    ("cat ", "cat "),
    ("", ""),
  ],
)
def test_a_class_is_known_by_its_wordnet_id_or_its_whole_name(name, key):
  assert class_key(name) == key


def test_lists_that_agree_by_key_are_the_same():
  same_classes((SALAMANDER, "cat"), ("n01629819", "cat"), at="here")
  assert class_difference(("a",), ("a",)) == ""


@pytest.mark.parametrize(
  ("model", "data", "said"),
  [
    ("abc", "acb", "class 1 is 'c', and the model's is 'b'"),
    ("abc", "ab", "it has 2 classes, the model 3; only the model has 'c'"),
    ("abc", "abz", "it has 3 classes, the model 3; only the data has 'z'; only the model has 'c'"),
    ("a", "avwxyz", "it has 6 classes, the model 1; only the data has 'v', 'w', 'x' and 2 more"),
  ],
)
def test_a_difference_is_told_with_counts_names_or_the_first_position(model, data, said):
  assert class_difference(tuple(model), tuple(data)) == said
  with pytest.raises(DataError) as refusal:
    same_classes(tuple(model), tuple(data), at="here")
  assert str(refusal.value) == f"here has other classes than the model: {said}"


def test_few_names_are_three():
  assert few(["a", "b", "c"]) == "'a', 'b', 'c'"
  assert few(list("abcde")) == "'a', 'b', 'c' and 2 more"
