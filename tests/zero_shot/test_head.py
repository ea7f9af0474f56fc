"""Heads made of words: their definition once more in numpy, and what they must not depend on."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl import models, zero_shot
from jaxtl.errors import ConfigError
from tests.oracles.cases import inputs_of, prepared
from tests.pretrained.made_weights import made
from tests.pretrained.references.make import CASES, FOLDER
from tests.zero_shot.made_text import SIZE, save_vocabulary

PROMPTS = zero_shot.Prompts(("a photo of a {}.", "the {}", "{}"))
NAMES = ("cat", "hot dog", "blurry photo of the dog", "12", "a")
TOWERS = [case for case in CASES if case.layout == "openai"]
SCALE = np.float32(np.log(50))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  return zero_shot.tokenizer(vocabulary=save_vocabulary(tmp_path_factory.mktemp("text") / "merges.txt"))


def tower(**keywords):
  small = dict(width=12, depth=2, num_heads=3, embed_dim=5, vocabulary=SIZE, context=40) | keywords
  found = made("openai", "clip_text_b", size=small["context"], **small)
  found.ours["params"]["projection"]["log_scale"] = SCALE
  return found.model, found.ours["params"]


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def by_hand(text, params, tokenizer, names=NAMES):
  """One text at a time, in the full length, as methods.md 1.1 has it."""
  rows = []
  for name in names:
    texts = [template.replace("{}", name) for template in PROMPTS.templates]
    each = [text.apply(params, {}, tokenizer([one], context=40))[0]["pooled"][0] for one in texts]
    rows.append(unit(np.mean([unit(np.asarray(one, np.float64)) for one in each], axis=0)))
  return np.stack(rows)


@pytest.mark.parametrize("batch_size", [1, 3, 6, 7, 256])
def test_a_row_is_the_mean_direction_of_its_texts(tokenizer, batch_size):
  text, params = tower()
  head = zero_shot.zero_shot_head(text, params, NAMES, PROMPTS, tokenizer=tokenizer, batch_size=batch_size)
  assert head["kernel"].dtype == head["log_scale"].dtype == np.float32
  np.testing.assert_allclose(head["kernel"].T, by_hand(text, params, tokenizer), atol=1e-5)


def test_rows_times_the_scale_have_the_scale_s_length(tokenizer):
  head = zero_shot.zero_shot_head(*tower(), NAMES, PROMPTS, tokenizer=tokenizer)
  rows = np.exp(head["log_scale"]) * head["kernel"].T
  assert rows.shape == (len(NAMES), 5)
  np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 50, rtol=1e-5)


def test_the_length_of_a_text_s_embedding_does_not_count(tokenizer):
  # Half of the templates at ten times the length: a mean before the first normalisation would follow them.
  text, params = tower()
  calls = []

  def longer(params, batch_stats, ids):
    features, stats = text.apply(params, batch_stats, ids)
    calls.append(ids.shape)
    factors = jnp.where(jnp.arange(len(ids)) % 2 == 0, 10.0, 1.0)[:, None]
    return features | {"pooled": factors * features["pooled"]}, stats

  plain, other = (
    zero_shot.zero_shot_head(tower, params, NAMES, PROMPTS, tokenizer=tokenizer)
    for tower in (text, dataclasses.replace(text, apply=longer))
  )
  assert calls
  np.testing.assert_allclose(other["kernel"], plain["kernel"], atol=1e-6)


@settings(deadline=None, max_examples=10)
@given(factor=st.floats(0.01, 100))
def test_logits_do_not_depend_on_the_length_of_the_image_s_embedding(tokenizer, factor):
  head = zero_shot.zero_shot_head(*tower(), NAMES, PROMPTS, tokenizer=tokenizer)
  model = models.layers.Head(len(NAMES), "scaled_cosine", lambda x: x)
  image = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
  plain, scaled = (
    model.apply({"params": head}, np.float32(s) * image, False, False)["logits"] for s in (1, factor)
  )
  np.testing.assert_allclose(scaled, plain, rtol=1e-4, atol=1e-4)
  expected = np.exp(head["log_scale"]) * unit(image) @ head["kernel"]
  np.testing.assert_allclose(plain, expected, rtol=1e-4, atol=1e-4)


def test_another_order_of_classes_is_another_order_of_columns(tokenizer):
  text, params = tower()
  there, back = (
    zero_shot.zero_shot_head(text, params, names, PROMPTS, tokenizer=tokenizer)
    for names in (NAMES, NAMES[::-1])
  )
  np.testing.assert_allclose(there["kernel"], back["kernel"][:, ::-1], atol=1e-6)


def test_another_vocabulary_and_no_classes_are_refused(tokenizer):
  with pytest.raises(ConfigError, match=f"has {SIZE} tokens, and the text tower is for 700; give the vocab"):
    zero_shot.zero_shot_head(*tower(vocabulary=700), NAMES, PROMPTS, tokenizer=tokenizer)
  with pytest.raises(ConfigError, match="there are no class names"):
    zero_shot.zero_shot_head(*tower(), (), PROMPTS, tokenizer=tokenizer)


def test_logits_are_those_of_open_clip_s_embeddings():
  """The towers' outputs in open_clip are those of tests/pretrained/references; the rest is the definition."""
  image, text = TOWERS
  with np.load(FOLDER / "references.npz") as stored:
    images, texts = (stored[f"{case} eval"].astype(np.float64) for case in (image, text))
  model, ours, _, _ = prepared(text, train=False)
  tokens = inputs_of(text, train=False)["tokens"]
  fake = Given("made", 60, 58, 59, tokens)
  two = zero_shot.Prompts(("{} one", "{} two"))
  head = zero_shot.zero_shot_head(model, ours["params"], ("a", "b"), two, tokenizer=fake)
  body, weights, _, _ = prepared(image, train=False)
  pooled = body.apply(weights["params"], {}, inputs_of(image, train=False)["images"])[0]["pooled"]
  apply = models.layers.Head(2, "scaled_cosine", lambda x: x).apply
  logits = apply({"params": head}, pooled, False, False)["logits"]
  rows = unit(unit(texts).reshape(2, 2, -1).mean(axis=1))
  scale = np.exp(np.float64(ours["params"]["projection"]["log_scale"]))
  np.testing.assert_allclose(logits, scale * unit(images) @ rows.T, atol=1e-4 * scale)


class Given(zero_shot.Tokenizer):
  """Token ids that are known already, in place of an encoder."""

  def __call__(self, texts, *, context):
    assert self.encoder.shape == (len(texts), context)
    return self.encoder
