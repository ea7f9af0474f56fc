"""When two sources are taken to have images in common."""

import pytest

from jaxtl import config
from jaxtl.train.source_overlap import overlap

DIGITS = dict(make=".data.digits", split="train")
TEST = dict(make=".data.digits", split="test")


def part(source=DIGITS, **keywords):
  return dict(make=".data.part_of", source=source, **keywords)


def subset(source=DIGITS, num_examples=50, **keywords):
  return dict(make=".data.subset", source=source, num_examples=num_examples, **keywords)


def tfds(split, name="cifar100"):
  return dict(make=".data.from_tfds", name=name, split=split)


def joined(**sources):
  return dict(make=".data.joined", sources=sources)


HALF, REST = part(stop=0.5), part(start=0.5)


@pytest.mark.parametrize(
  ("one", "other", "expected"),
  [
    (DIGITS, DIGITS, True),
    (DIGITS, TEST, False),
    (DIGITS, subset(), True),
    (DIGITS, REST, True),
    (part(stop=0.9), part(start=0.9), False),
    (part(stop=0.95), part(start=0.9), True),
    (part(stop=0.9), part(start=0.9, seed=1), True),  # another shuffle
    (part(stop=0.9), part(TEST, start=0.9), False),
    (part(subset(), stop=0.8), part(subset(), start=0.8), False),
    (part(subset(), stop=0.8), part(subset(num_examples=60), start=0.8), True),
    (part(subset(), stop=0.8), part(start=0.8), True),  # of a part and of the whole
    (part(subset(), stop=0.8), DIGITS, True),
    (subset(HALF), REST, False),
    (subset(HALF), subset(REST, seed=3), False),
    (part(HALF, start=0.9), REST, False),
    (part(HALF, stop=0.9), part(HALF, start=0.9), False),
    (part(HALF, stop=0.9), HALF, True),
    (joined(a=HALF, b=TEST), REST, False),
    (joined(a=HALF, b=TEST), DIGITS, True),
    (TEST, part(joined(a=HALF, b=TEST)), True),
    (joined(a=HALF), joined(a=REST), False),
    (tfds("train[:90%]"), tfds("train[90%:]"), False),
    (tfds("train[:90%]"), tfds("train[80%:]"), True),
    (tfds("train"), tfds("train[90%:]"), True),
    (tfds("train"), tfds("test"), False),
    (tfds("train"), tfds("all"), True),
    (tfds("train"), tfds("test+train[:5%]"), True),
    (tfds("train[10%:20%]+train[30%:]"), tfds("train[:10%]+train[20%:30%]"), False),
    (tfds("train[:90%]"), tfds("train[-10%:]"), False),
    (tfds("train[:90%]"), tfds("train[-11%:]"), True),
    (tfds("train[:45_000]"), tfds("train[45000:]"), False),
    (tfds("train[:-5000]"), tfds("train[-5000:]"), False),
    (tfds("train[:45000]"), tfds("train[-5000:]"), True),  # how many there are is not known
    (tfds("train[:90%]"), tfds("train[45000:]"), True),
    (tfds("train"), tfds("train", name="cifar10"), False),
    (part(tfds("train[:90%]")), part(tfds("train[90%:]")), False),
    (part(tfds("train"), stop=0.9), part(tfds("train"), start=0.9), False),
    (part(tfds("train"), stop=0.9), tfds("train[90%:]"), True),
  ],
)
def test_two_sources_are_apart_only_where_that_can_be_told(one, other, expected):
  for a, b in ((one, other), (other, one)):
    assert overlap(a, b) is expected
    assert overlap(a, config.spec(b)) is expected


def test_a_path_in_full_is_the_same_component():
  full = part(stop=0.9) | dict(make="jaxtl.data.part_of")
  assert overlap(full, part(start=0.8))
  assert not overlap(full, part(start=0.9))
