"""What an export says of itself: the configs by which libraries build the model, and the model card."""

import json

import pytest

from jaxtl import config
from jaxtl.checkpoints.checkpoint import Weights
from jaxtl.data import Preprocessing
from jaxtl.pretrained import library_names
from jaxtl.pretrained.exporting import export
from jaxtl.pretrained.model_card import model_card
from tests.pretrained.made_weights import CLASSES, VIT, as_weights

VIT16 = dict(image_size=16, **VIT)
CENTER = [
  dict(fn=".data.resize", size=20, interpolation="bicubic"),
  dict(fn=".data.center_crop", size=16),
  dict(fn=".data.normalize", mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4]),
]


def exported(folder, form, name="vit_ti16", **rest):
  """{file without suffix: its JSON, or its text}."""
  export(as_weights(name, **rest), folder / "out", format=form)
  texts = {p.stem: p.read_text() for p in (folder / "out").iterdir() if p.suffix in (".json", ".md")}
  return {name: text if name == "README" else json.loads(text) for name, text in texts.items()}


def spec_of(name, **keywords):
  return config.spec({"make": f".models.{name}", **keywords})


@pytest.mark.parametrize(
  ("name", "keywords", "architecture"),
  [
    ("vit_ti16", {}, "vit_tiny_patch16_224"),
    ("vit_ti32", {}, "vit_tiny_patch16_224"),
    ("vit_s32", {}, "vit_small_patch32_224"),
    ("vit_b16", {}, "vit_base_patch16_224"),
    ("vit_l32", {}, "vit_large_patch32_224"),
    ("vit_s16", dict(pooling="distilled"), "deit_small_distilled_patch16_224"),
    ("vit_l16", dict(pooling="distilled"), "deit_base_distilled_patch16_224"),
    ("resnet50", {}, "resnet50"),
    ("densenet121", {}, "densenet121"),
    ("mobilenet_v2", {}, "mobilenetv2_100"),
    ("efficientnet_b0", dict(padding="symmetric", bn_epsilon=1e-5), "efficientnet_b0"),
    ("efficientnet_b0", dict(padding="same", bn_epsilon=1e-3), "tf_efficientnet_b0"),
    ("efficientnet_lite4", dict(padding="same", bn_epsilon=1e-3), "tf_efficientnet_lite4"),
  ],
)
def test_timms_name_of_a_model_is_one_that_timm_has(name, keywords, architecture):
  found = library_names.timm_config(spec_of(name, **keywords), CLASSES, Preprocessing())
  assert found["architecture"] == architecture
  assert found["num_classes"] == len(CLASSES)


def test_timms_config_has_sizes_labels_and_preprocessing(tmp_path):
  found = exported(tmp_path, "timm", transforms=CENTER, **VIT16)["config"]
  assert found["model_args"] == dict(img_size=16, patch_size=8, embed_dim=8, depth=2, num_heads=2)
  assert found["label_names"] == list(CLASSES)
  told = found["pretrained_cfg"]
  assert told["input_size"] == [3, 16, 16]
  assert told["crop_pct"] == 16 / 20
  assert told["crop_mode"] == "center"
  assert told["interpolation"] == "bicubic"
  assert (told["mean"], told["std"]) == ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
  assert told["fixed_input_size"]


def test_timm_is_told_to_squash_and_to_pool_the_mean(tmp_path):
  found = exported(tmp_path, "timm", pooling="mean", **VIT16)["config"]
  assert found["pretrained_cfg"]["crop_mode"] == "squash"
  assert found["global_pool"] == found["model_args"]["global_pool"] == "avg"
  assert not found["model_args"]["class_token"]


def test_transformers_config_has_sizes_numerics_and_labels(tmp_path):
  found = exported(
    tmp_path, "hugging_face", activation="gelu_tanh", norm_epsilon=1e-12, transforms=CENTER, **VIT16
  )
  told = found["config"]
  assert told["architectures"] == ["ViTForImageClassification"]
  assert told["model_type"] == "vit"
  sizes = dict(hidden_size=8, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
  sizes |= dict(image_size=16, patch_size=8, num_channels=3)
  assert {key: told[key] for key in sizes} == sizes
  assert (told["hidden_act"], told["layer_norm_eps"]) == ("gelu_pytorch_tanh", 1e-12)
  assert told["id2label"] == {"0": "ant", "1": "bee", "2": "cat"}
  assert told["label2id"] == {"ant": 0, "bee": 1, "cat": 2}
  processor = found["preprocessor_config"]
  assert processor["size"] == dict(shortest_edge=20)
  assert processor["crop_size"] == dict(height=16, width=16)
  assert processor["resample"] == 3
  assert (processor["image_mean"], processor["image_std"]) == ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])


def test_a_distilled_model_is_deit(tmp_path):
  found = exported(tmp_path, "hugging_face", pooling="distilled", **VIT16)
  assert found["config"]["architectures"] == ["DeiTForImageClassificationWithTeacher"]
  assert found["preprocessor_config"]["size"] == dict(height=16, width=16)
  assert not found["preprocessor_config"]["do_center_crop"]


def test_each_tower_of_clip_is_a_class_of_its_own():
  text = library_names.transformers_config(spec_of("clip_text_b"), ())
  assert text["architectures"] == ["CLIPTextModelWithProjection"]
  assert (text["vocab_size"], text["eos_token_id"], text["projection_dim"]) == (49408, 49407, 512)
  image = library_names.transformers_config(spec_of("clip_vit_b32"), ())
  assert image["architectures"] == ["CLIPVisionModelWithProjection"]
  assert (image["hidden_act"], image["patch_size"], image["projection_dim"]) == ("quick_gelu", 32, 512)


@pytest.mark.parametrize(
  ("name", "keywords", "library"),
  [
    ("vit_ti16", VIT16, "transformers"),
    ("vit_ti16", VIT16 | dict(pooling="mean"), "timm"),
    ("vit_ti16", VIT16 | dict(head="cosine"), "jaxtl"),
    ("resnet8", dict(width=2), "jaxtl"),
    ("clip_vit_b32", VIT16 | dict(embed_dim=4), "jaxtl"),  # transformers has no place for its classifier
  ],
)
def test_a_hugging_face_folder_is_of_the_first_library_that_computes_the_same(
  tmp_path, name, keywords, library
):
  found = exported(tmp_path, "hugging_face", name, **keywords)
  assert f"library_name: {library}\n" in found["README"]
  key = {"transformers": "architectures", "timm": "architecture", "jaxtl": "model"}[library]
  assert key in found["config"]
  assert ("preprocessor_config" in found) == (library == "transformers")


def test_clip_without_a_classifier_is_of_transformers(tmp_path):
  found = exported(tmp_path, "hugging_face", "clip_vit_b32", classes=(), embed_dim=4, **VIT16)
  assert found["config"]["architectures"] == ["CLIPVisionModelWithProjection"]
  assert found["preprocessor_config"]["image_processor_type"] == "CLIPImageProcessor"
  assert "pipeline_tag: feature-extraction" in found["README"]


def test_a_text_tower_has_no_images_to_prepare(tmp_path):
  sizes = dict(width=4, depth=1, num_heads=2, embed_dim=4, vocabulary=8, context=16)
  found = exported(tmp_path, "hugging_face", "clip_text_b", classes=(), **sizes)
  assert found["config"]["architectures"] == ["CLIPTextModelWithProjection"]
  assert "preprocessor_config" not in found
  assert "Token ids, up to 16." in found["README"]


def test_the_card_says_what_the_weight_is_and_how_it_is_used(tmp_path):
  card = exported(tmp_path, "hugging_face", transforms=CENTER, **VIT16)["README"]
  assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: image-classification\n")
  assert "# vit_ti16 for 3 classes" in card
  assert "3,379 parameters" in card
  assert "the shorter side to 20 (bicubic, antialiased), then the middle 16 x 16" in card
  assert "subtract 0.5, 0.4, 0.3; divide by 0.2, 0.3, 0.4" in card
  assert "ant; bee; cat" in card
  assert "AutoModelForImageClassification.from_pretrained" in card


def test_the_card_says_where_a_weight_comes_from(tmp_path):
  weights = as_weights("vit_ti16", **VIT16)
  source = dict(file="a.safetensors", layout="timm", sha256="0" * 64)
  read = Weights(weights.params, {}, weights.config | dict(source=source), "memory")
  assert f"Read from `a.safetensors` (layout timm, sha256 `{'0' * 64}`)." in model_card(
    read, read.model_spec(), library="timm"
  )
  run = tmp_path / "run"
  (run / "checkpoints" / "7").mkdir(parents=True)
  records = [{"step": 1, "eval/test/top1": 0.1}, {"step": 7, "eval/test/top1": 0.75, "train/loss": 2.0}]
  (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
  about = weights.config | dict(step=7, seed=3, experiment=dict(epochs=2.0))
  trained = Weights(weights.params, {}, about, str(run / "checkpoints" / "7"))
  card = model_card(trained, trained.model_spec(), library="timm")
  assert "| step | `7` |" in card
  assert "| epochs | `2.0` |" in card
  assert "| test/top1 | 0.7500 |" in card
  assert "train/loss" not in card
  (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records[::-1]))
  assert "test/top1" not in model_card(trained, trained.model_spec(), library="timm")  # lines have moved


def test_the_program_says_what_is_left_to_do(tmp_path):
  found = exported(tmp_path, "stablehlo", "resnet8", width=2, transforms=CENTER)["preprocessing"]
  assert found["resize"] == dict(shorter_side=20, interpolation="bicubic", antialias=True)
  assert found["center_crop"] == 16
  assert found["inside_the_program"]["mean"] == [0.5, 0.4, 0.3]
  assert found["input"] == "uint8 [b, 16, 16, 3], RGB"
  assert found["exif_orientation"] == "turn"
