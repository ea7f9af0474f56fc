"""Zero-shot classification in open_clip and transformers and here: tokens, embeddings, heads, logits.

Not called test_*: it needs open_clip and transformers, as live_originals does. OpenAI's vocabulary is the one
that open_clip brings along.
"""

import importlib.resources
import json

import numpy as np
import pytest

from jaxtl import config, models, zero_shot
from jaxtl.checkpoints.checkpoint import Weights
from tests.pretrained.made_weights import TASK, made

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-4  # relative to the largest value, in float32
VOCABULARY = str(importlib.resources.files("open_clip") / "bpe_simple_vocab_16e6.txt.gz")
IMAGE = dict(image_size=64, patch_size=16, width=48, depth=3, num_heads=3, embed_dim=24)
TEXT = dict(width=48, depth=3, num_heads=3, embed_dim=24)
# Signs, shortened verbs, other scripts, numbers, HTML's names, an end written out, nothing.
ODD = (
  *("it's we're I'm you'll they'd I've don't", "  HELLO   world\n\ttab ", "foo_bar-baz/qux", "", "   "),
  *("naïve café ÀÉÎ ß", "日本語 テスト 한국어 العربية", "☕️😀👩‍👩‍👧", "x²  ½ Ⅷ 123 4.56", "¡hola! ¿qué?"),
  *("e\N{COMBINING ACUTE ACCENT} vs \N{LATIN SMALL LETTER E WITH ACUTE}", "a" * 300, "word " * 100),
)
OPEN_CLIP_ONLY = ("&lt;b&gt; &amp;amp; x", "<|endoftext|> a <|startoftext|>", "İstanbul ΣΑΣ")


@pytest.fixture(scope="module")
def tokenizer():
  return zero_shot.tokenizer(vocabulary=VOCABULARY)


def every_prompt():
  sets = map(zero_shot.read_prompts, zero_shot.prompt_sets())
  return [text for prompts in sets for name in prompts.classes for text in prompts.texts(name)]


def test_imagenet_s_words_are_open_clip_s():
  prompts = zero_shot.read_prompts("imagenet")
  assert prompts.classes == tuple(open_clip.IMAGENET_CLASSNAMES)
  theirs = [template("tench") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
  assert prompts.texts("tench") == theirs


def test_tokens_are_open_clip_s(tokenizer):
  texts = [*every_prompt(), *ODD, *OPEN_CLIP_ONLY]
  theirs = open_clip.SimpleTokenizer(VOCABULARY)(texts).numpy()
  np.testing.assert_array_equal(tokenizer(texts), theirs)
  print(f"{len(texts)} texts, longest {np.argmax(theirs == 49407, axis=1).max() + 1} tokens")
  assert tokenizer.size == 49_408


def test_tokens_are_those_of_transformers_in_each_of_its_files(tokenizer, tmp_path):
  vocabulary = tokenizer.encoder.get_vocab()
  merges = [tuple(pair) for pair in merges_of(tokenizer)]
  theirs = transformers.CLIPTokenizer(vocab=vocabulary, merges=merges)
  theirs.save_pretrained(tmp_path)
  (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]), encoding="utf-8")
  texts = [*every_prompt()[::7], *ODD]
  expected = theirs(texts, max_length=77, truncation=True, padding="max_length")["input_ids"]
  for file in ("tokenizer.json", "merges.txt"):
    ours = zero_shot.tokenizer(vocabulary=str(tmp_path / file))
    for row, other in zip(ours(texts), expected):
      # They fill up with the end mark, of which the text tower takes the first.
      length = int(np.argmax(row == ours.end)) + 1
      assert list(row[:length]) == other[:length]
      assert not row[length:].any()
      assert set(other[length:]) <= {ours.end}


def merges_of(tokenizer):
  return json.loads(tokenizer.encoder.to_str())["model"]["merges"]


@pytest.fixture(scope="module")
def towers():
  """Both towers with random weights, as ours and as the tensors of one file of OpenAI's."""
  image = made("openai", "clip_vit_b16", size=64, num_classes=0, **IMAGE)
  text = made("openai", "clip_text_b", size=77, **TEXT)
  text.ours["params"]["projection"]["log_scale"] = np.float32(np.log(100))
  theirs = image.theirs | text.theirs | {"logit_scale": np.float32(np.log(100))}
  return image, text, {key: torch.tensor(value) for key, value in theirs.items()}


@pytest.fixture(scope="module")
def original(towers):
  """open_clip's model of the same weights."""
  from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

  vision = CLIPVisionCfg(layers=3, width=48, head_width=16, patch_size=16, image_size=64)
  model = CLIP(24, vision, CLIPTextCfg(layers=3, width=48, heads=3), quick_gelu=True)
  model.load_state_dict(towers[2])
  return model.eval()


def close(ours, theirs, what):
  difference = np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()
  print(f"{what}: {difference:.1e}")
  assert difference < TOLERANCE


def pixels():
  return np.random.default_rng(1).standard_normal((5, 64, 64, 3)).astype(np.float32)


@pytest.mark.parametrize("name", ["cifar10", "gtsrb", "mnist", "imagenet"])
def test_logits_are_open_clip_s(tokenizer, towers, original, name):
  image, text, _ = towers
  prompts = zero_shot.read_prompts(name)
  names, templates = prompts.classes[:43], list(prompts.templates)
  theirs_of = open_clip.SimpleTokenizer(VOCABULARY)
  head = zero_shot.zero_shot_head(text.model, text.ours["params"], names, prompts, tokenizer=tokenizer)
  with torch.no_grad():
    rows = open_clip.build_zero_shot_classifier(original, theirs_of, names, templates)
    embedded = original.encode_image(torch.tensor(pixels()).permute(0, 3, 1, 2))
    logits = original.logit_scale.exp() * torch.nn.functional.normalize(embedded, dim=-1) @ rows
  close(image.model.apply(image.ours["params"], {}, pixels())[0]["pooled"], embedded.numpy(), "images")
  close(head["kernel"], rows.numpy(), "head")
  close(with_head(image, head), logits.numpy(), "logits")


def with_head(image, head):
  """The logits of the image tower with a head, made as a config makes it."""
  spec = config.plain(config.spec({"make": ".models.clip_vit_b16", **IMAGE}))
  about = dict(model=spec, task=TASK, classes=[], image_shape=[64, 64, 3], transforms=None)
  count = head["kernel"].shape[1]
  whole = zero_shot.with_head(
    Weights(image.ours["params"], {}, about, "memory"), head, list(map(str, range(count)))
  )
  model = whole.model_spec().realize(num_classes=count)
  return model.apply(whole.params, {}, pixels())[0]["logits"]


def test_logits_are_those_of_transformers(tokenizer, towers):
  """Of one text for each class, which is all that its model has a function for."""
  image, text, _ = towers
  shared = dict(hidden_size=48, intermediate_size=192, num_hidden_layers=3, num_attention_heads=3)
  shared |= dict(hidden_act="quick_gelu", projection_dim=24)
  settings = transformers.CLIPConfig(
    text_config=dict(shared, bos_token_id=49406, eos_token_id=49407, vocab_size=49408),
    vision_config=dict(shared, image_size=64, patch_size=16),
    projection_dim=24,
  )
  model = transformers.CLIPModel(settings).eval()
  theirs = hugging_face(image, text)
  state = model.state_dict()
  assert {key for key in state if not key.endswith("position_ids")} == set(theirs)
  model.load_state_dict(theirs, strict=False)
  prompts = zero_shot.Prompts(("a blurry photo of a {}.",), zero_shot.read_prompts("cifar10").classes)
  ids = tokenizer([prompts.texts(name)[0] for name in prompts.classes])
  with torch.no_grad():
    out = model(
      input_ids=torch.tensor(ids, dtype=torch.long),
      pixel_values=torch.tensor(pixels()).permute(0, 3, 1, 2),
    )
  params = text.ours["params"]
  pooled = np.asarray(text.model.apply(params, {}, ids)[0]["pooled"])
  close(pooled / np.linalg.norm(pooled, axis=1, keepdims=True), out.text_embeds.numpy(), "texts")
  images = image.model.apply(image.ours["params"], {}, pixels())[0]["pooled"]
  close(images / np.linalg.norm(images, axis=1, keepdims=True), out.image_embeds.numpy(), "images")
  head = zero_shot.zero_shot_head(text.model, params, prompts.classes, prompts, tokenizer=tokenizer)
  close(with_head(image, head), out.logits_per_image.numpy(), "logits")
  similarity = models.similarity(images, pooled, scale=100.0)
  close(similarity, out.logits_per_image.numpy(), "similarity")


def hugging_face(image, text):
  """The same weights under the names of Hugging Face."""
  from jaxtl.pretrained import LAYOUTS, write

  tensors = {}
  for one in (image, text):
    entries = LAYOUTS["hugging_face"].entries(one.model, one.shapes)
    tensors |= write(entries, one.ours)
  return {key: torch.tensor(value) for key, value in tensors.items()}
