"""Heads from files: whose classes they are, and files that do not go together."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxtl import config, train, tree, zero_shot
from jaxtl.checkpoints import checkpoint
from jaxtl.errors import CheckpointError, ConfigError, DataError, InputError
from jaxtl.zero_shot import from_files
from tests.pretrained.made_weights import as_weights
from tests.zero_shot.made_text import SIZE, save_prompts, save_vocabulary

pytestmark = pytest.mark.slow

TEXT = dict(width=12, depth=2, num_heads=3, embed_dim=5, vocabulary=SIZE, context=16)
IMAGE = dict(width=8, depth=1, num_heads=2, embed_dim=5, image_size=16, patch_size=8)


@pytest.fixture
def files(tmp_path):
  """The three files of a head, as a config names them."""
  weights = as_weights("clip_text_b", size=TEXT["context"], classes=(), **TEXT)
  checkpoint.save_weights(weights, tmp_path / "text")
  return dict(
    text=str(tmp_path / "text"),
    vocabulary=save_vocabulary(tmp_path / "merges.txt"),
    prompts=save_prompts(tmp_path / "words.json", labels=["n1", "n2"]),
  )


def maker(files, **changes):
  return config.spec({"make": ".zero_shot.zero_shot", **files, **changes}).realize()


def shipped(name, **more):
  """The maker of a set that is shipped, where only its names are asked for."""
  return zero_shot.zero_shot(text="nowhere", vocabulary="nowhere", prompts=name, **more)


def test_a_config_s_head_is_that_of_its_files(files):
  head = maker(files)(["hot_dog", "cat"])
  weights = checkpoint.load(files["text"])
  tokenizer = zero_shot.tokenizer(vocabulary=files["vocabulary"])
  prompts = zero_shot.read_prompts(files["prompts"])
  text = weights.model_spec().realize()
  expected = zero_shot.zero_shot_head(text, weights.params, ("hot dog", "cat"), prompts, tokenizer=tokenizer)
  np.testing.assert_array_equal(head["kernel"], expected["kernel"])
  assert head["log_scale"] == weights.params["projection"]["log_scale"]


def test_a_tower_that_was_kept_in_bfloat16_makes_its_head_in_float32(files, tmp_path):
  weights = as_weights("clip_text_b", size=TEXT["context"], classes=(), dtype="bfloat16", **TEXT)
  checkpoint.save_weights(weights, tmp_path / "half")
  half, whole = (maker(files, text=str(tmp_path / name))() for name in ("half", "text"))
  np.testing.assert_array_equal(half["kernel"], whole["kernel"])


def test_a_head_is_made_once(files, monkeypatch):
  first = maker(files)(["cat", "n2"])
  monkeypatch.setattr(from_files, "zero_shot_head", lambda *_, **__: pytest.fail("made again"))
  again = maker(files)(["n1", "n2"])  # the same words
  np.testing.assert_array_equal(first["kernel"], again["kernel"])
  assert again is not first


def test_without_classes_the_prompts_have_their_own(files):
  assert maker(files).names() == ("cat", "hot dog")
  assert maker(files)()["kernel"].shape == (5, 2)


@pytest.mark.parametrize(
  ("name", "classes", "names"),
  [
    (
      "cifar10",
      ["truck", "Ship", "horse", "airplane"],
      "truck",
    ),
    ("eurosat", ["SeaLake", "River", "Residential", "PermanentCrop", "Pasture"], "lake or sea"),
    ("eurosat", ["lake or sea", "river"], "lake or sea"),
    ("sun397", ["/y/yard", "/a/abbey"], "yard"),
    ("sun397", ["apartment_building/outdoor", "abbey"], "apartment building outdoor"),
    ("imagenet", ["n02012849 crane", "n03126707"], "crane bird"),
    ("gtsrb", ["00014", "00013"], "stop"),
    ("gtsrb", ["14", "2"], "stop"),
    ("mnist", ["9", "0"], "9"),
    ("dtd", ["polka-dotted", "banded"], "polka-dotted"),
    ("fashion_mnist", ["T-shirt/top", "Ankle_boot"], "T-shirt/top"),
  ],
)
def test_a_class_is_found_by_its_name_its_label_or_its_number(name, classes, names):
  found = shipped(name, subset=True).names(classes)
  assert len(found) == len(classes)
  assert found[0] == names


def test_numbers_in_the_order_of_texts_are_still_numbers():
  # Folders called 0 to 42 are listed as 0, 1, 10, 11, ...
  folders = sorted(map(str, range(43)))
  classes = zero_shot.read_prompts("gtsrb").classes
  assert shipped("gtsrb").names(folders) == tuple(classes[int(folder)] for folder in folders)


def test_prompts_without_classes_take_those_of_the_data(files, tmp_path):
  words = save_prompts(tmp_path / "templates.json", classes=None)
  assert maker(files, prompts=words).names(["hot_dog", "Cat"]) == ("hot dog", "Cat")
  with pytest.raises(DataError, match="name no classes, and no data set does"):
    maker(files, prompts=words).names()


def test_a_part_of_the_classes_must_be_meant():
  with pytest.raises(
    DataError, match=r"'cifar10' are for 10 classes, and the data have 2; write subset=True"
  ):
    shipped("cifar10").names(["cat", "dog"])
  assert shipped("cifar10", subset=True).names(["dog", "cat"]) == ("dog", "cat")
  with pytest.raises(DataError, match=r"are for 10 classes, and the data have 11; write other prompts$"):
    shipped("cifar10", subset=True).names(list("abcdefghijk"))


@pytest.mark.parametrize(
  ("classes", "message"),
  [
    (["cat", "cow"], "have no class 'cow'; write a JSON file of prompts with the data's own names as labels"),
    (["cat", "n1"], "two of the data's classes are 'cat' of the prompts"),
    (["0", "2"], "have no class '2'"),
    (["0", "cat"], "have no class '0'"),
  ],
)
def test_a_class_that_is_not_known_is_never_guessed(files, classes, message):
  with pytest.raises(DataError, match=message):
    maker(files).names(classes)


def test_classes_of_one_name_are_found_by_their_labels_only():
  first, second = "n04355933", "n04356056"
  two = shipped("imagenet", subset=True)
  assert two.names([second, first]) == ("sunglasses", "sunglasses")
  with pytest.raises(DataError, match="have no class 'sunglasses'"):
    two.names(["sunglasses", "tench"])


def test_a_head_belongs_on_an_image_tower(files):
  weights = as_weights("clip_vit_b32", classes=(), **IMAGE)
  head = maker(files)(["n2", "n1"])
  made = zero_shot.with_head(weights, head, ["n2", "n1"])
  assert made.classes == ("n2", "n1")
  model = made.model_spec().realize(num_classes=2)
  images = np.random.default_rng(0).standard_normal((3, 16, 16, 3)).astype(np.float32)
  features = model.apply(made.params, made.batch_stats, images)[0]
  pooled = features["pooled"] / np.linalg.norm(features["pooled"], axis=1, keepdims=True)
  expected = np.exp(head["log_scale"]) * pooled @ head["kernel"]
  np.testing.assert_allclose(features["logits"], expected, rtol=1e-4, atol=1e-4)
  assert "head" not in weights.params


def test_fine_tuning_below_a_frozen_head_moves_everything_else(files, tiny, runtime, tmp_path):
  source = dict(make="tests.small_training.squares", num_classes=2)
  resized = [dict(fn=".data.resize", size=16), dict(fn=".data.normalize")]
  recipe = dict(make=".optim.adamw", peak_rate=1e-3, weight_decay=0.1, decay_where=".*", clip_norm=1.0)
  recipe |= dict(freeze="^head/", schedule=dict(make=".optim.cosine", warmup_steps=2))
  experiment = tiny(
    model=dict(make=".models.clip_vit_b32", head="scaled_cosine", **IMAGE),
    data=dict(source=source, transforms=resized, batch_size=8),
    evaluation={},
    optimizer=recipe,
    epochs=None,
    steps=4,
  )
  weights = as_weights("clip_vit_b32", classes=(), **IMAGE)
  words = save_prompts(tmp_path / "squares.json", labels=["b", "a"])
  start = zero_shot.with_head(weights, maker(files, prompts=words)(["a", "b"]), ["a", "b"])
  after = train.run(experiment, seed=0, runtime=runtime(), start=start).weights.params
  jax.tree.map(np.testing.assert_array_equal, after["head"], start.params["head"])
  for path, old, new in zip(tree.paths(after), jax.tree.leaves(start.params), jax.tree.leaves(after)):
    assert path.startswith("head/") or not np.array_equal(old, new), path


def test_towers_that_are_no_pair_are_refused(files):
  head = maker(files)()
  wide = as_weights("clip_vit_b32", classes=(), **(IMAGE | dict(embed_dim=6)))
  with pytest.raises(CheckpointError, match="embeds images in 6 dimensions, and the text tower its texts"):
    zero_shot.with_head(wide, head, ["a", "b"])
  for other in (as_weights("resnet8", width=4), checkpoint.load(files["text"])):
    with pytest.raises(
      CheckpointError, match="is not an image tower of CLIP; import one with --as clip_vit_b32"
    ):
      zero_shot.with_head(other, head, ["a", "b"])


def test_files_that_cannot_be_used_are_one_line(files, tmp_path):
  checkpoint.save_weights(as_weights("resnet8", width=4), tmp_path / "resnet")
  with pytest.raises(
    CheckpointError, match=r"holds \.models\.resnet8, which is not a text tower; .* clip_text_b or"
  ):
    maker(files, text=str(tmp_path / "resnet"))()
  with pytest.raises(CheckpointError, match="no checkpoint at"):
    maker(files, text=str(tmp_path / "nowhere"))()
  with pytest.raises(InputError, match="there is no vocabulary at"):
    maker(files, vocabulary=str(tmp_path / "nowhere"))()
  with pytest.raises(ConfigError, match=r"there are no prompts 'cifar11'.*did you mean 'cifar10'"):
    maker(files, prompts="cifar11")


def test_a_model_of_another_package_needs_trust(files, tmp_path):
  weights = checkpoint.load(files["text"])
  model = weights.config["model"] | dict(make="tests.zero_shot.test_from_files.my_tower")
  strange = dataclasses.replace(weights, config=weights.config | dict(model=model))
  checkpoint.save_weights(strange, tmp_path / "strange")
  with pytest.raises(ConfigError, match="pass --trust"):
    maker(files, text=str(tmp_path / "strange"))()
  head = maker(files, text=str(tmp_path / "strange"))(trust=True)
  np.testing.assert_array_equal(head["kernel"], maker(files)()["kernel"])


def my_tower(*, context: int, **keywords):
  """Somebody's own name for a text tower."""
  from jaxtl import models

  return models.clip_text_b(context=context, **keywords)


def test_prompts_are_checked_when_the_config_is_made(files, tmp_path):
  broken = tmp_path / "broken.json"
  broken.write_text(json.dumps(dict(templates=["a cat"])))
  with pytest.raises(ConfigError, match=r"has no \{\} for the name of the class"):
    maker(files, prompts=str(broken))
