"""The same weights as in the original libraries, against what those gave; see references/make.py."""

import functools

import jax
import numpy as np
import pytest

from tests.oracles.cases import inputs_of, prepared
from tests.pretrained.references.make import CASES, FOLDER, modes

pytestmark = pytest.mark.slow

REFERENCES = FOLDER / "references.npz"
TOLERANCE = 1e-4  # relative to the largest output, in float32


def outputs(case, *, train):
  model, ours, _, _ = prepared(case, train=train)
  given = next(iter(inputs_of(case, train=train).values()))
  apply = jax.jit(functools.partial(model.apply, train=train, key=jax.random.key(0)))
  features, _ = apply(ours["params"], ours["batch_stats"], given)
  return np.asarray(features["logits" if "logits" in features else "pooled"])


def relative(ours, theirs):
  return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize(
  ("case", "train"), [(case, train) for case in CASES for train in modes(case)], ids=str
)
def test_outputs_are_the_original_s(case, train):
  with np.load(REFERENCES) as stored:
    theirs = stored[f"{case} {'train' if train else 'eval'}"]
  assert relative(outputs(case, train=train), theirs) < TOLERANCE


def test_every_reference_is_used():
  with np.load(REFERENCES) as stored:
    assert set(stored.files) == {f"{c} {'train' if t else 'eval'}" for c in CASES for t in modes(c)}


def test_the_other_padding_is_seen():
  # The same weights with the other framework's padding run without a word and give something else.
  case = next(c for c in CASES if c.model == "efficientnet_lite0")
  other = type(case)(case.layout, case.model, {**case.keywords, "padding": "symmetric"}, case.size)
  with np.load(REFERENCES) as stored:
    theirs = stored[f"{case} eval"]
  assert relative(outputs(other, train=False), theirs) > 1e-2
