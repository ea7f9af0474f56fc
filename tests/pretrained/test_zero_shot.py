"""`jaxtl eval --zero-shot`: from a file of both towers to the accuracy on images, as a user types it."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxtl import cli, zero_shot
from jaxtl.checkpoints import checkpoint
from tests.pretrained.made_weights import as_weights, made, refused, save
from tests.zero_shot.made_text import SIZE, save_prompts, save_vocabulary

CLASSES = ("cat", "dog", "the blurry")
IMAGE = dict(image_size=16, patch_size=8, width=8, depth=1, num_heads=2, embed_dim=5)
TEXT = dict(width=12, depth=1, num_heads=3, embed_dim=5, vocabulary=SIZE, context=16)


def imported(file, model, out, keywords):
  overrides = [f"{key}={value}" for key, value in keywords.items()]
  arguments = ["import", file, "--as", model, "--layout", "openai", "--out", out, "--num-devices", 1]
  assert cli.main([str(a) for a in (*arguments, *overrides)]) == 0


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A folder with both towers of one file, the vocabulary, the words and nine images."""
  folder = tmp_path_factory.mktemp("zero_shot")
  image = made("openai", "clip_vit_b32", num_classes=0, **IMAGE)
  text = made("openai", "clip_text_b", size=TEXT["context"], **TEXT)
  save(folder / "clip.safetensors", image.theirs | text.theirs)
  imported(folder / "clip.safetensors", "clip_vit_b32", folder / "image", IMAGE)
  imported(folder / "clip.safetensors", "clip_text_b", folder / "text", TEXT)
  save_vocabulary(folder / "merges.txt")
  save_prompts(folder / "words.json", classes=CLASSES, labels=["n1", "n2", "n3"])
  rng = np.random.default_rng(0)
  for name in ("n3", "n1", "n2"):
    (folder / "images" / name).mkdir(parents=True)
    for number in range(3):
      pixels = rng.integers(0, 255, (20, 24, 3)).astype(np.uint8)
      Image.fromarray(pixels).save(folder / "images" / name / f"{number}.png")
  return folder


def command(place, *more, head=("--zero-shot", "--text", "--vocabulary"), **changes):
  files = {"--zero-shot": "words.json", "--text": "text", "--vocabulary": "merges.txt"}
  given = {name: str(place / changes.get(name.strip("-"), files[name])) for name in head}
  pairs = [part for pair in given.items() for part in pair]
  data = place / changes.get("data", "images")
  return ["eval", place / "image", "--data", data, "--batch-size", 4, "--num-devices", 1, *pairs, *more]


def test_scores_are_those_of_the_towers(place, tmp_path, capsys):
  assert cli.main([str(a) for a in command(place, "--out", tmp_path / "out")]) == 0
  assert f"zero-shot by {place / 'text'} with the prompts {place / 'words.json'}" in capsys.readouterr().out
  found = json.loads((tmp_path / "out" / "scores.json").read_text())
  image, text = (checkpoint.load(place / name) for name in ("image", "text"))
  tokenizer = zero_shot.tokenizer(vocabulary=str(place / "merges.txt"))
  tower = text.model_spec().realize()
  rows = []
  for name in CLASSES:
    ids = tokenizer([f"a photo of a {name}.", f"the {name}"], context=16)
    each = np.asarray(tower.apply(text.params, {}, ids)[0]["pooled"])
    mean = (each / np.linalg.norm(each, axis=1, keepdims=True)).mean(axis=0)
    rows.append(mean / np.linalg.norm(mean))
  pixels, labels = pixels_and_labels(place)
  pooled = np.asarray(image.model_spec().realize(num_classes=0).apply(image.params, {}, pixels)[0]["pooled"])
  pooled = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
  logits = np.exp(text.params["projection"]["log_scale"]) * pooled @ np.stack(rows).T
  top1 = np.mean(logits.argmax(axis=1) == labels)
  logits -= logits.max(axis=1, keepdims=True)
  cross_entropy = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(9), labels])
  assert found["top1"] == pytest.approx(top1)
  assert found["cross_entropy"] == pytest.approx(cross_entropy, rel=1e-3)


def pixels_and_labels(place):
  """What the checkpoint's own preprocessing makes of the images."""
  from jaxtl import config, data

  transforms = checkpoint.load(place / "image").config["transforms"]
  realized = [config.spec(transform).realize() for transform in transforms]
  source = data.from_name(name=str(place / "images"))
  assert source.classes == ("n1", "n2", "n3")
  batch = next(iter(data.eval_batches(source, realized, batch_size=9)))
  return batch["image"], batch["label"]


def test_some_of_the_classes_need_the_word_subset(place, tmp_path, capsys):
  for name in ("n3", "n1"):
    (tmp_path / "two" / name).mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(tmp_path / "two" / name / "0.png")
  line = refused(capsys, *command(place, data=tmp_path / "two"), code=3)
  assert "are for 3 classes, and the data have 2" in line
  assert cli.main([str(a) for a in command(place, "--subset", data=tmp_path / "two")]) == 0


@pytest.mark.parametrize(
  ("head", "more", "message"),
  [
    (
      ("--zero-shot", "--text"),
      (),
      "--zero-shot needs --vocabulary: the text tower, and its vocab",
    ),
    (("--zero-shot",), (), "--zero-shot needs --text and --vocabulary"),
    (("--text",), (), "--text requires --zero-shot PROMPTS; give both or neither"),
    (("--vocabulary",), (), "--vocabulary requires --zero-shot PROMPTS"),
    (
      ("--zero-shot", "--text", "--vocabulary"),
      ("--class-map", "m.json"),
      "--class-map cannot be combined with",
    ),
    (("--zero-shot",), ("--flatness",), "--zero-shot cannot be combined with --flatness"),
    (("--text",), ("--flatness",), "--text cannot be combined with --flatness"),
    (("--vocabulary",), ("--flatness",), "--vocabulary cannot be combined with --flatness"),
    ((), (), "train one, or give an image tower of CLIP one with --zero-shot"),
  ],
)
def test_options_that_do_not_go_together_are_one_line(place, capsys, head, more, message):
  assert message in refused(capsys, *command(place, *more, head=head))


def test_files_that_do_not_go_together_are_one_line(place, tmp_path, capsys):
  assert "which is not a text tower" in refused(capsys, *command(place, text="image"))
  assert "there is no vocabulary at" in refused(capsys, *command(place, vocabulary="no.txt"))
  assert "neither a set nor a JSON file" in refused(capsys, *command(place, **{"zero-shot": "no.json"}))
  wide = as_weights("clip_text_b", size=16, classes=(), **(TEXT | dict(embed_dim=6)))
  checkpoint.save_weights(wide, tmp_path / "wide")
  assert "they do not belong together" in refused(capsys, *command(place, text=tmp_path / "wide"))
  save_prompts(tmp_path / "others.json", classes=("cat", "dog", "cow"))
  line = refused(capsys, *command(place, **{"zero-shot": tmp_path / "others.json"}), code=3)
  assert "have no class 'n1', 'n2', 'n3'" in line
