"""The data's classes among the model's: by name, by map, and every way in which that cannot be."""

import json

import pytest

from jaxtl.errors import DataError, InputError
from jaxtl.evaluation.label_map import match_classes, read_class_map

MODEL = ("n00000001 tench, Tinca tinca", "n00000002 goldfish", "cat", "dog")


def test_the_same_classes_need_no_option():
  found = match_classes(MODEL, ("n00000001", "n00000002", "cat", "dog"), at="d")
  assert found.columns == (0, 1, 2, 3)
  assert found.classes == ("n00000001", "n00000002", "cat", "dog")
  assert not found.restricted


def test_a_subset_in_another_order_is_matched_by_name_when_told():
  found = match_classes(MODEL, ("dog", "n00000001"), at="d", subset=True)
  assert found.columns == (3, 0)
  assert found.restricted
  assert found.num_model_classes == 4


def test_a_map_names_what_is_called_otherwise_and_implies_the_restriction():
  found = match_classes(
    MODEL, ("hound", "cat", "fish"), at="d", class_map={"hound": "dog", "fish": "n00000002"}
  )
  assert found.columns == (3, 2, 1)
  assert found.restricted


@pytest.mark.parametrize(
  ("data", "options", "said"),
  [
    (("dog", "cat"), {}, "it has 2 classes, the model 4; only the model has .*; write --subset"),
    (("dog", *MODEL[:3]), {}, "class 0 is 'dog', and the model's is 'n00000001 tench.*; write --subset"),
    ((*MODEL, "cow"), {}, "only the data has 'cow'; give --class-map FILE"),
    (("cow", "cat"), {"subset": True}, "the model has no class 'cow'; .* --class-map FILE"),
    (("cow", "cat"), {"class_map": {"kow": "dog"}}, "names 'kow', which the data does not have"),
    (("cow", "cat"), {"class_map": {"cow": "dogg"}}, "names 'dogg', which the model does not have"),
    (("cow", "cat"), {"class_map": {}}, "the model has no class 'cow'"),
    (("cow", "cat"), {"class_map": {"cow": "cat"}}, "'cow' and 'cat' are both the model's class 'cat'"),
    (("n00000001 a", "n00000001 b"), {"subset": True}, "are both the model's class 'n00000001 tench"),
  ],
)
def test_what_does_not_fit_is_one_line(data, options, said):
  with pytest.raises(DataError, match=said) as refusal:
    match_classes(MODEL, data, at="d", **options)
  assert "\n" not in str(refusal.value)


def test_a_model_whose_classes_share_an_id_cannot_be_mapped():
  with pytest.raises(DataError, match="begin with the same WordNet id"):
    match_classes(("n00000001 a", "n00000001 b"), ("n00000001",), at="d", subset=True)


@pytest.mark.parametrize(
  ("text", "said"),
  [("{", "is not valid JSON"), ("[1]", "expected a JSON object"), ('{"a": 1}', "expected a JSON object")],
)
def test_a_file_that_is_no_map_is_refused(tmp_path, text, said):
  (tmp_path / "map.json").write_text(text)
  with pytest.raises(InputError, match=said):
    read_class_map(tmp_path / "map.json")
  with pytest.raises(InputError, match="cannot be read"):
    read_class_map(tmp_path / "absent.json")


def test_a_map_is_read_as_it_is(tmp_path):
  (tmp_path / "map.json").write_text(json.dumps({"hound": "dog"}))
  assert read_class_map(tmp_path / "map.json") == {"hound": "dog"}
