"""The words that are shipped, and files of words."""

import pytest

from jaxtl import zero_shot
from jaxtl.errors import ConfigError
from jaxtl.zero_shot.from_files import _key
from tests.zero_shot.made_text import save_prompts

# Templates and classes, methods.md 1.1 and CLIP's own lists.
COUNTS = dict(cars=(8, 196), cifar10=(18, 10), cifar100=(18, 100), dtd=(8, 47), eurosat=(3, 10))
COUNTS |= dict(fashion_mnist=(8, 10), food101=(1, 101), gtsrb=(3, 43), imagenet=(80, 1000), mnist=(1, 10))
COUNTS |= dict(resisc45=(18, 45), stl10=(2, 10), sun397=(2, 397), svhn=(1, 10))


def test_these_sets_are_shipped():
  assert zero_shot.prompt_sets() == sorted(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_every_set_has_as_many_words_as_clip_s(name):
  prompts = zero_shot.read_prompts(name)
  assert (len(prompts.templates), len(prompts.classes)) == COUNTS[name]
  assert len(set(prompts.templates)) == len(prompts.templates)
  assert "/" in prompts.source
  for words in (*prompts.templates, *prompts.classes):
    assert words == " ".join(words.split())
    assert "_" not in words


@pytest.mark.parametrize("name", COUNTS)
def test_labels_and_classes_are_told_apart_without_case_and_signs(name):
  prompts = zero_shot.read_prompts(name)
  classes = [_key(each) for each in prompts.classes]
  labels = [_key(each) for each in prompts.labels or ()]
  # ImageNet has two kinds of missiles and of sunglasses under one name each; their labels differ.
  assert len(classes) - len(set(classes)) == (2 if name == "imagenet" else 0)
  assert len(set(labels)) == len(labels)
  for number, label in enumerate(labels):
    assert label not in classes or classes.index(label) == number


def test_the_names_are_the_curated_ones():
  def classes(name):
    return zero_shot.read_prompts(name).classes

  imagenet = dict(zip(zero_shot.read_prompts("imagenet").labels, classes("imagenet")))
  assert imagenet["n01440764"] == "tench"
  assert imagenet["n02012849"] == "crane bird"
  assert imagenet["n03126707"] == "construction crane"
  assert imagenet["n15075141"] == "toilet paper"
  eurosat = dict(zip(zero_shot.read_prompts("eurosat").labels, classes("eurosat")))
  assert eurosat["Highway"] == "highway or road"
  assert eurosat["SeaLake"] == "lake or sea"
  assert classes("mnist") == classes("svhn") == tuple("0123456789")
  assert classes("gtsrb")[14] == "stop"
  sun = dict(zip(zero_shot.read_prompts("sun397").labels, classes("sun397")))
  assert sun["/a/apartment_building/outdoor"] == "apartment building outdoor"
  assert "baseball diamond" in classes("resisc45")
  assert classes("fashion_mnist")[0] == "T-shirt/top"


def test_a_template_is_said_of_a_class(tmp_path):
  prompts = zero_shot.read_prompts(save_prompts(tmp_path / "my.json", templates=['the "{}"', "{}, a {}"]))
  assert prompts.texts("{cat}") == ['the "{cat}"', "{cat}, a {cat}"]
  assert prompts.labels is None


def test_classes_may_be_left_to_the_data(tmp_path):
  assert zero_shot.read_prompts(save_prompts(tmp_path / "my.json", classes=None)).classes is None


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (dict(templates=[]), "templates is (); expected one or more texts with {} for the class"),
    (dict(templates=None), "needs 'templates'"),
    (dict(templates=["a cat"]), "templates: 'a cat' has no {} for the name of the class"),
    (dict(templates="a {}"), "templates is 'a {}'; expected a list"),
    (dict(classes=[]), "classes is (); expected one or more names"),
    (dict(classes=["cat", 3]), "classes.1 is 3; expected text"),
    (dict(labels=["n1"]), "labels are 1, and classes 2; write one for each class"),
    (dict(labels=["n1"], classes=None), "labels are 1, and classes 0"),
    (dict(template=["a {}"]), "has no 'template'; did you mean 'templates'?"),
  ],
)
def test_a_file_of_words_that_do_not_fit_is_one_line(tmp_path, fields, message):
  path = save_prompts(tmp_path / "my.json", **fields)
  with pytest.raises(ConfigError) as error:
    zero_shot.read_prompts(path)
  assert message in str(error.value)
  assert str(error.value).startswith(path)


def test_an_unknown_set_shows_the_nearest(tmp_path):
  with pytest.raises(
    ConfigError, match="no prompts 'cifr10', neither a set nor a JSON file; did you mean 'cif"
  ):
    zero_shot.read_prompts("cifr10")
  for content, message in (
    (b"[1", "is not valid JSON"),
    (b"\xff", "cannot be read"),
    (b"[]", "expected a mapping"),
  ):
    (tmp_path / "my.json").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
      zero_shot.read_prompts(str(tmp_path / "my.json"))
