"""What the JSON beside a weight says of it, and that only what is data is taken from there."""

import functools
import json
import random
from pathlib import Path

import numpy as np
import pytest

from jaxtl import cli
from jaxtl.checkpoints import checkpoint
from jaxtl.data import Preprocessing
from jaxtl.errors import InputError
from jaxtl.pretrained import LAYOUTS
from jaxtl.pretrained.layouts.openai import CLIP_MEAN, CLIP_STD
from jaxtl.pretrained.source_facts import Facts, read_facts
from tests.pretrained.made_weights import CLASSES, VIT_KEYWORDS, as_weights, refused, save, small_vit

HALF = [0.5, 0.5, 0.5]
LABELS = {"2": "cat", "0": "ant", "1": "bee"}


def facts(folder, layout, model, **files):
  for name, content in files.items():
    (folder / f"{name}.json").write_text(json.dumps(content))
  return read_facts(folder, layout, model)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_that_comes_alone_says_nothing(tmp_path, layout):
  assert read_facts(tmp_path, layout, "vit_ti16") == Facts()


def test_hugging_face_says_numerics_classes_and_preprocessing(tmp_path):
  config = dict(model_type="vit", hidden_act="gelu_new", layer_norm_eps=1e-6, id2label=LABELS)
  processor = dict(size=dict(height=16, width=16), resample=3, image_mean=HALF, image_std=[0.1, 0.2, 0.3])
  found = facts(tmp_path, "hugging_face", "vit_ti16", config=config, preprocessor_config=processor)
  # transformers builds 12 heads where a config does not say how many.
  assert found.keywords == dict(norm_epsilon=1e-6, activation="gelu_tanh", num_heads=12)
  assert found.classes == CLASSES
  assert found.preprocessing == Preprocessing(16, None, "bicubic", (0.5, 0.5, 0.5), (0.1, 0.2, 0.3))


def test_deit_has_two_tokens_and_a_crop(tmp_path):
  config = dict(model_type="deit", id2label={"0": "LABEL_0", "1": "LABEL_1"})
  crop = dict(size=dict(shortest_edge=256), crop_size=dict(height=224, width=224), do_center_crop=True)
  found = facts(tmp_path, "hugging_face", "vit_ti16", config=config, preprocessor_config=crop)
  assert found.keywords == dict(pooling="distilled", num_heads=12)
  assert found.classes is None  # names that say nothing
  assert found.preprocessing.resize_to == 256
  assert found.preprocessing.size == 224
  assert found.preprocessing.interpolation == "bicubic"  # that of transformers' DeiT processor


def test_each_tower_of_clip_has_its_own_part_of_the_config(tmp_path):
  config = dict(
    vision_config=dict(hidden_act="quick_gelu", layer_norm_eps=1e-5),
    text_config=dict(hidden_act="gelu", layer_norm_eps=1e-6),
  )
  image = facts(tmp_path, "hugging_face", "clip_vit_b32", config=config)
  text = facts(tmp_path, "hugging_face", "clip_text_b", config=config)
  assert image.keywords == dict(norm_epsilon=1e-5, activation="quick_gelu", num_heads=12)
  assert text.keywords == dict(norm_epsilon=1e-6, activation="gelu", num_heads=8)


def test_timm_says_numerics_classes_and_preprocessing(tmp_path):
  cfg = dict(input_size=[3, 240, 240], crop_pct=0.9, interpolation="bicubic", mean=HALF, std=HALF)
  config = dict(architecture="tf_efficientnet_b1", pretrained_cfg=cfg, label_names=list(CLASSES))
  found = facts(tmp_path, "timm", "efficientnet_b1", config=config)
  assert found.keywords == {}
  assert found.classes == CLASSES
  assert found.preprocessing == Preprocessing(240, 0.9, "bicubic", (0.5,) * 3, (0.5,) * 3)
  squashed = config | dict(pretrained_cfg=cfg | dict(crop_mode="squash"), architecture="efficientnet_b1")
  found = facts(tmp_path, "timm", "efficientnet_b1", config=squashed)
  assert found.keywords == dict(padding="symmetric", bn_epsilon=1e-5)
  assert found.preprocessing.crop_fraction is None


def test_numbers_of_heads_are_taken_since_no_shape_tells_them(tmp_path):
  config = dict(model_type="vit", num_attention_heads=4)
  assert facts(tmp_path, "hugging_face", "vit_ti16", config=config).keywords == dict(num_heads=4)
  arguments = dict(img_size=64, patch_size=8, embed_dim=48, depth=2, num_heads=3, class_token=False)
  config = dict(architecture="vit_small_patch16_224", model_args=arguments)
  expected = dict(image_size=64, patch_size=8, width=48, depth=2, num_heads=3, pooling="mean")
  assert facts(tmp_path, "timm", "vit_s16", config=config).keywords == expected
  config = dict(architecture="deit_small_distilled_patch16_224")
  assert facts(tmp_path, "timm", "vit_s16", config=config).keywords == dict(pooling="distilled")


def test_timms_descriptions_come_in_the_order_of_its_names(tmp_path):
  config = dict(label_names=["n2", "n1"], label_descriptions=dict(n1="one", n2="two"))
  assert facts(tmp_path, "timm", "resnet50", config=config).classes == ("two", "one")


@pytest.mark.parametrize(("quick", "activation"), [(True, "quick_gelu"), (False, "gelu")])
def test_open_clip_says_its_activation_and_preprocessing(tmp_path, quick, activation):
  config = dict(
    model_cfg=dict(quick_gelu=quick, vision_cfg=dict(image_size=336)),
    preprocess_cfg=dict(mean=HALF, std=HALF),
  )
  found = facts(tmp_path, "open_clip", "clip_vit_l14", open_clip_config=config)
  assert found.keywords == dict(activation=activation)
  assert found.preprocessing == Preprocessing(336, 1.0, "bicubic", (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
  ("layout", "name", "content", "message"),
  [
    ("timm", "config", "{", "is not a JSON object"),
    ("timm", "config", "[1]", "is not a JSON object"),
    ("timm", "config", '{"pretrained_cfg": 3}', "is not what timm writes"),
    ("jaxtl", "config", '{"model": "resnet50"}', "is not what jaxtl writes"),
    ("jaxtl", "config", '{"model": {}}', "is not what jaxtl writes"),
    ("hugging_face", "config", '{"id2label": ["a"]}', "is not what hugging_face writes"),
    ("hugging_face", "config", '{"id2label": {"x": "a"}}', "is not what hugging_face writes"),
    ("hugging_face", "config", '{"hidden_act": "relu"}', "activation 'relu' is not known here"),
    ("hugging_face", "preprocessor_config", '{"size": 224, "resample": 0}', "interpolation 0 is not known"),
    ("hugging_face", "preprocessor_config", '{"size": 224, "rescale_factor": 0}', "a positive number"),
    ("open_clip", "open_clip_config", '{"preprocess_cfg": 1}', "is not what open_clip writes"),
    ("open_clip", "open_clip_config", '{"preprocess_cfg": {"mean": "x"}}', "expected three numbers"),
  ],
)
def test_json_of_another_kind_is_refused(tmp_path, layout, name, content, message):
  (tmp_path / f"{name}.json").write_text(content)
  with pytest.raises(InputError) as caught:
    read_facts(tmp_path, layout, "vit_ti16")
  assert message in str(caught.value)


PROCESSOR = dict(size=dict(height=16, width=16), resample=3, image_mean=HALF, image_std=[0.1, 0.2, 0.4])


@pytest.mark.parametrize(
  ("changed", "mean", "std"),
  [
    ({}, [0.5] * 3, [0.1, 0.2, 0.4]),
    (dict(do_normalize=False), [0.0] * 3, [1.0] * 3),
    (dict(do_rescale=False), [0.5 / 255] * 3, [0.1 / 255, 0.2 / 255, 0.4 / 255]),
    (dict(do_rescale=False, do_normalize=False), [0.0] * 3, [1 / 255] * 3),
    (dict(rescale_factor=1 / 127.5), [0.25] * 3, [0.05, 0.1, 0.2]),
    (dict(rescale_factor=1), [0.5 / 255] * 3, [0.1 / 255, 0.2 / 255, 0.4 / 255]),
    (dict(image_mean=0.3), [0.3] * 3, [0.1, 0.2, 0.4]),
  ],
)
def test_a_processor_s_rescaling_and_normalisation_are_ours(tmp_path, changed, mean, std):
  processor = PROCESSOR | changed
  found = facts(tmp_path, "hugging_face", "vit_ti16", preprocessor_config=processor).preprocessing
  np.testing.assert_allclose(found.mean, mean)
  np.testing.assert_allclose(found.std, std)
  # What the processor does to a pixel, and what ours does to it.
  pixel = np.array([10.0, 100.0, 250.0])
  theirs = pixel * (processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1)
  if processor.get("do_normalize", True):
    theirs = (theirs - np.asarray(processor["image_mean"])) / np.asarray(processor["image_std"])
  np.testing.assert_allclose((pixel / 255 - found.mean) / found.std, theirs, rtol=1e-6)


def test_processors_of_transformers_5_are_read(tmp_path):
  joint = dict(image_processor=PROCESSOR, processor_class="CLIPProcessor")
  older = PROCESSOR | dict(image_mean=[0.1] * 3)
  found = facts(tmp_path, "hugging_face", "vit_ti16", processor_config=joint, preprocessor_config=older)
  assert found.preprocessing == Preprocessing(16, None, "bicubic", (0.5,) * 3, (0.1, 0.2, 0.4))
  found = facts(tmp_path, "hugging_face", "vit_ti16", processor_config=dict(processor_class="X"))
  assert found.preprocessing.mean == (0.1,) * 3


@pytest.mark.parametrize(
  ("processor", "expected"),
  [
    (
      dict(image_processor_type="ViTImageProcessor"),
      Preprocessing(224, None, "bilinear", (0.5,) * 3, (0.5,) * 3),
    ),
    (
      dict(feature_extractor_type="ViTFeatureExtractor", size=64),
      Preprocessing(64, None, "bilinear", (0.5,) * 3, (0.5,) * 3),
    ),
    (
      dict(image_processor_type="DeiTImageProcessorFast"),
      Preprocessing(224, 224 / 256, "bicubic", (0.5,) * 3, (0.5,) * 3),
    ),
    (
      dict(image_processor_type="CLIPImageProcessor"),
      Preprocessing(224, 1.0, "bicubic", CLIP_MEAN, CLIP_STD),
    ),
    (
      dict(image_processor_type="CLIPImageProcessor", size=256),
      Preprocessing(224, 224 / 256, "bicubic", CLIP_MEAN, CLIP_STD),
    ),
    (dict(PROCESSOR, do_resize=False), Preprocessing(16, None, "bicubic", (0.5,) * 3, (0.1, 0.2, 0.4))),
    (
      dict(PROCESSOR, do_center_crop=True, crop_size=16, size=dict(height=16, width=16)),
      Preprocessing(16, None, "bicubic", (0.5,) * 3, (0.1, 0.2, 0.4)),
    ),
  ],
)
def test_what_a_processor_does_not_say_is_what_its_class_does(tmp_path, processor, expected):
  assert facts(tmp_path, "hugging_face", "vit_ti16", preprocessor_config=processor).preprocessing == expected


def test_a_resize_of_both_sides_before_a_crop_is_noted(tmp_path):
  processor = PROCESSOR | dict(do_center_crop=True, crop_size=224, size=256)
  found = facts(tmp_path, "hugging_face", "vit_ti16", preprocessor_config=processor)
  assert found.preprocessing.resize_to == 256
  assert "256 x 256 before the crop" in found.notes[0]


def test_what_timm_s_file_leaves_open_is_timm_s_default_and_assumed(tmp_path):
  config = dict(architecture="resnet50", pretrained_cfg=dict(input_size=[3, 64, 64], std=[0.3]))
  found = facts(tmp_path, "timm", "resnet50", config=config)
  assert found.preprocessing == Preprocessing(64, 0.875, "bicubic", Preprocessing.mean, (0.3,) * 3)
  assert found.assumed == ("crop_fraction", "interpolation", "mean")


VIT_CONFIG = dict(architecture="vit_small_patch16_224")


@pytest.mark.parametrize(
  ("arguments", "pooling"),
  [
    (dict(global_pool="avg", class_token=False, fc_norm=False), "mean"),
    (dict(class_token=False), "mean"),
    (dict(global_pool="token"), None),
    (dict(global_pool="token", class_token=True, fc_norm=False), None),
    (dict(qkv_bias=True, drop_path_rate=0.1, reg_tokens=0, init_values=None, mlp_ratio=4.0), None),
  ],
)
def test_pooling_of_timm_that_is_ours(tmp_path, arguments, pooling):
  found = facts(tmp_path, "timm", "vit_s16", config=VIT_CONFIG | dict(model_args=arguments))
  assert found.keywords.get("pooling") == pooling


@pytest.mark.parametrize(
  "arguments",
  [
    dict(global_pool="avg", fc_norm=False),
    dict(global_pool="avg"),
    dict(global_pool="avg", class_token=False, fc_norm=True),
    dict(global_pool="max"),
    dict(global_pool=""),
    dict(global_pool="map"),
    dict(fc_norm=True),
    dict(act_layer="relu"),
    dict(norm_layer="rmsnorm"),
    dict(pre_norm=True),
    dict(qkv_bias=False),
    dict(qk_norm=True),
    dict(final_norm=False),
    dict(no_embed_class=True),
    dict(reg_tokens=4),
    dict(init_values=1e-5),
    dict(pos_embed="none"),
    dict(mlp_ratio=3),
    dict(in_chans=1),
    dict(img_size=[224, 256]),
    dict(something=1),
  ],
  ids=str,
)
def test_model_arguments_of_timm_that_are_not_understood_are_named(tmp_path, arguments):
  with pytest.raises(InputError) as caught:
    facts(tmp_path, "timm", "vit_s16", config=VIT_CONFIG | dict(model_args=arguments))
  assert next(iter(arguments)) in str(caught.value)
  assert "\n" not in str(caught.value)


def test_numerics_in_timm_s_model_arguments_are_taken(tmp_path):
  config = dict(architecture="efficientnet_b0", model_args=dict(bn_eps=1e-3, pad_type="same", drop_rate=0.2))
  assert facts(tmp_path, "timm", "efficientnet_b0", config=config).keywords == dict(
    padding="same", bn_epsilon=1e-3
  )
  config = VIT_CONFIG | dict(model_args=dict(act_layer="quick_gelu", img_size=[64, 64]))
  found = facts(tmp_path, "timm", "vit_s16", config=config).keywords
  assert found == dict(activation="quick_gelu", image_size=64)


@pytest.mark.parametrize(
  ("model", "architecture"),
  [
    ("resnet50", "resnetblur50"),  # the tensors of resnet50 with other pooling
    ("resnet50", "resnetaa50"),
    ("resnet50", "resnet50_gn"),
    ("resnet50", "resnet101"),
    ("densenet121", "densenetblur121d"),
    ("efficientnet_b0", "efficientnet_b1"),
    ("efficientnet_b1", "efficientnet_b1_pruned"),
    ("vit_b16", "vit_base_patch16_siglip_gap_224"),
    ("vit_b16", "vit_base_patch16_clip_224"),
    ("vit_b16", "deit3_base_patch16_224"),
    ("vit_b16", "resnet50"),
  ],
)
def test_another_network_of_timm_is_refused(tmp_path, model, architecture):
  with pytest.raises(InputError, match=f"architecture={architecture}, which is not known to be {model}"):
    facts(tmp_path, "timm", model, config=dict(architecture=architecture))


@pytest.mark.parametrize(
  ("model", "architecture"),
  [
    ("resnet50", "resnet50.a1_in1k"),
    ("resnet50", "gluon_resnet50_v1b"),
    ("efficientnet_b0", "tf_efficientnet_b0_ns"),
    ("efficientnet_lite0", "efficientnet_lite0"),
    ("efficientnet_l2", "tf_efficientnet_l2_ns_475"),
    ("mobilenet_v2", "mobilenetv2_100"),
    ("vit_b16", "vit_base_patch16_224.augreg_in21k"),
    ("vit_b16", "vit_base_patch16_224_in21k"),
    ("vit_s16", "deit_small_distilled_patch16_224"),
  ],
)
def test_the_networks_of_timm_by_all_their_names(tmp_path, model, architecture):
  facts(tmp_path, "timm", model, config=dict(architecture=architecture))


UNKNOWN = [
  ("timm", "resnet50", "config", dict(pretrained_cfg=dict(crop_mode="border")), "crop_mode"),
  ("timm", "resnet50", "config", dict(pretrained_cfg=dict(color_space="bgr")), "color_space"),
  ("timm", "resnet50", "config", dict(pretrained_cfg=dict(input_size=[1, 64, 64])), "input_size"),
  ("timm", "resnet50", "config", dict(pretrained_cfg=dict(input_size=[3, 64, 32])), "input_size"),
  ("timm", "resnet50", "config", dict(pretrained_cfg=dict(mean=HALF)), "mean"),
  ("timm", "resnet50", "config", dict(global_pool="max"), "global_pool"),
  ("timm", "resnet50", "config", dict(model_args=dict(aa_layer="blurpool")), "aa_layer"),
  ("timm", "resnet50", "config", dict(model_args=dict(output_stride=8)), "output_stride"),
  ("timm", "efficientnet_b0", "config", dict(model_args=dict(act_layer="relu")), "act_layer"),
  ("timm", "efficientnet_b0", "config", dict(model_args=dict(pad_type="valid")), "pad_type"),
  ("timm", "resnet50", "config", dict(label_names={"0": "a", "2": "b"}), "label_names"),
  ("hugging_face", "vit_b16", "config", dict(model_type="dinov2"), "model_type"),
  ("hugging_face", "vit_b16", "config", dict(qkv_bias=False), "qkv_bias"),
  ("hugging_face", "vit_b16", "config", dict(num_channels=1), "num_channels"),
  ("hugging_face", "vit_b16", "config", dict(quantization_config=dict(bits=8)), "quantization_config"),
  ("hugging_face", "vit_b16", "config", dict(pruned_heads={"1": [0]}), "pruned_heads"),
  ("hugging_face", "vit_b16", "config", dict(layerscale_value=1.0), "layerscale_value"),
  ("hugging_face", "vit_b16", "config", dict(id2label={"0": "a", "2": "b"}), "id2label"),
  ("hugging_face", "clip_vit_b32", "config", dict(vision_config=dict(hidden_act="relu")), "relu"),
  ("hugging_face", "clip_vit_b32", "config", dict(vision_config=dict(use_head=True)), "use_head"),
  ("hugging_face", "clip_text_b", "config", dict(text_config=dict(eos_token_id=7)), "eos_token_id"),
  ("hugging_face", "vit_b16", "preprocessor_config", PROCESSOR | dict(do_pad=True), "do_pad"),
  ("hugging_face", "vit_b16", "preprocessor_config", PROCESSOR | dict(crop_pct=0.9), "crop_pct"),
  ("hugging_face", "vit_b16", "preprocessor_config", PROCESSOR | dict(rescale_offset=True), "rescale_offset"),
  ("hugging_face", "vit_b16", "preprocessor_config", PROCESSOR | dict(do_flip_channel_order=True), "do_flip"),
  ("hugging_face", "vit_b16", "preprocessor_config", PROCESSOR | dict(do_normalize="no"), "do_normalize"),
  ("hugging_face", "vit_b16", "preprocessor_config", PROCESSOR | dict(size=dict(height=16, width=8)), "size"),
  ("hugging_face", "vit_b16", "preprocessor_config", PROCESSOR | dict(size=dict(longest_edge=8)), "size"),
  (
    "hugging_face",
    "vit_b16",
    "preprocessor_config",
    PROCESSOR | dict(do_center_crop=True, crop_size=32),
    "crops 32",
  ),
  (
    "hugging_face",
    "vit_b16",
    "preprocessor_config",
    PROCESSOR | dict(do_center_crop=True, do_resize=False),
    "do_resize",
  ),
  (
    "open_clip",
    "clip_vit_b32",
    "open_clip_config",
    dict(preprocess_cfg=dict(resize_mode="longest")),
    "resize_mode",
  ),
  ("open_clip", "clip_vit_b32", "open_clip_config", dict(preprocess_cfg=dict(mode="L")), "mode"),
  (
    "open_clip",
    "clip_vit_b32",
    "open_clip_config",
    dict(model_cfg=dict(vision_cfg=dict(pool_type="avg"))),
    "pool_type",
  ),
  (
    "open_clip",
    "clip_vit_b32",
    "open_clip_config",
    dict(model_cfg=dict(vision_cfg=dict(ls_init_value=0.1))),
    "ls_init",
  ),
  (
    "open_clip",
    "clip_vit_b32",
    "open_clip_config",
    dict(model_cfg=dict(vision_cfg=dict(timm_model_name="x"))),
    "timm_model",
  ),
  (
    "open_clip",
    "clip_vit_b32",
    "open_clip_config",
    dict(model_cfg=dict(vision_cfg=dict(width=768, head_width=50))),
    "head_width",
  ),
  (
    "open_clip",
    "clip_text_b",
    "open_clip_config",
    dict(model_cfg=dict(text_cfg=dict(no_causal_mask=True))),
    "no_causal",
  ),
  (
    "open_clip",
    "clip_text_b",
    "open_clip_config",
    dict(model_cfg=dict(text_cfg=dict(act_kwargs=dict(x=1)))),
    "act_kwargs",
  ),
  (
    "open_clip",
    "clip_text_b",
    "open_clip_config",
    dict(model_cfg=dict(text_cfg=dict(hf_model_name="x"))),
    "hf_model",
  ),
  ("open_clip", "clip_text_b", "open_clip_config", dict(model_cfg=dict(custom_text=True)), "custom_text"),
]


@pytest.mark.parametrize(("layout", "model", "name", "content", "key"), UNKNOWN, ids=str)
def test_keys_that_change_the_outputs_and_are_not_understood_are_named(
  tmp_path, layout, model, name, content, key
):
  with pytest.raises(InputError) as caught:
    facts(tmp_path, layout, model, **{name: content})
  assert key in str(caught.value)
  assert "\n" not in str(caught.value)


def test_open_clip_s_heads_and_epsilon_are_taken(tmp_path):
  vision = dict(
    layers=12, width=640, head_width=80, patch_size=16, image_size=224, norm_kwargs=dict(eps=1e-6)
  )
  text = dict(context_length=77, vocab_size=49408, width=640, heads=10, layers=12)
  config = dict(model_cfg=dict(embed_dim=640, vision_cfg=vision, text_cfg=text))
  image = facts(tmp_path, "open_clip", "clip_vit_b16", open_clip_config=config).keywords
  assert image == dict(activation="gelu", norm_epsilon=1e-6, num_heads=8)
  assert facts(tmp_path, "open_clip", "clip_text_b").keywords == dict(activation="gelu", num_heads=10)


def test_the_second_part_of_an_old_config_of_clip_goes_over_the_first(tmp_path):
  config = dict(vision_config=dict(hidden_act="gelu"), vision_config_dict=dict(hidden_act="quick_gelu"))
  found = facts(tmp_path, "hugging_face", "clip_vit_b32", config=config)
  assert found.keywords["activation"] == "quick_gelu"


def test_transforms_of_ours_that_an_import_does_not_keep_are_refused(tmp_path):
  config = dict(
    model=dict(make=".models.resnet8"), transforms=[dict(fn=".data.flip")], classes=[], image_shape=[8, 8, 3]
  )
  with pytest.raises(InputError, match="more than a resize, a crop and a normalisation"):
    facts(tmp_path, "jaxtl", "resnet8", config=config)


STRANGE = (None, True, -1, 0, 1.5, float("nan"), "", "x", [], [[]], {}, {"a": 1}, 2**70, [1, 2, 3])


def refusal(read):
  """The line in which the facts are refused; None where they are read, and then they can be used."""
  try:
    found = read()
  except InputError as error:
    lines = str(error).splitlines()
  else:
    assert found.preprocessing is None or found.preprocessing.specs()
    return None
  (line,) = lines
  return line


@pytest.mark.parametrize("seed", range(4))
def test_mutated_files_are_read_or_refused_in_one_line(tmp_path, seed):
  rng = random.Random(seed)
  timm = VIT_CONFIG | dict(
    model_args=dict(img_size=64, num_heads=2, class_token=True),
    pretrained_cfg=dict(input_size=[3, 64, 64], mean=HALF, std=HALF, crop_pct=0.9, interpolation="bicubic"),
    label_names=["a", "b"],
    label_descriptions=dict(a="x", b="y"),
  )
  hub = dict(model_type="vit", hidden_act="gelu", num_attention_heads=2, id2label=LABELS)
  clip = dict(
    model_cfg=dict(vision_cfg=dict(width=64, image_size=32)), preprocess_cfg=dict(mean=HALF, std=HALF)
  )
  whole = [
    ("timm", "vit_s16", "config", timm),
    ("hugging_face", "vit_s16", "config", hub),
    ("hugging_face", "vit_s16", "processor_config", dict(image_processor=PROCESSOR)),
    ("open_clip", "clip_vit_b32", "open_clip_config", clip),
  ]
  refused = 0
  for _ in range(150):
    layout, model, name, content = rng.choice(whole)
    folder = tmp_path / "in"
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():
      file.unlink()
    content = json.loads(json.dumps(content))
    inside = rng.choice([content, *(x for x in content.values() if isinstance(x, dict) and x)])
    inside[rng.choice(list(inside))] = rng.choice(STRANGE)
    (folder / f"{name}.json").write_text(json.dumps(content))
    refused += refusal(functools.partial(read_facts, folder, layout, model)) is not None
  assert refused > 60


@pytest.fixture
def folder(tmp_path):
  """As Hugging Face's: weights and two files that describe them."""
  folder = tmp_path / "hub"
  folder.mkdir()
  save(folder / "model.safetensors", small_vit("hugging_face").theirs)
  config = dict(model_type="vit", hidden_act="quick_gelu", layer_norm_eps=1e-3, id2label=LABELS)
  (folder / "config.json").write_text(json.dumps(config))
  processor = dict(size=dict(height=16, width=16), resample=2, image_mean=[0.1] * 3, image_std=[0.2] * 3)
  (folder / "preprocessor_config.json").write_text(json.dumps(processor))
  return folder


def import_folder(folder, out, *options, layout="hugging_face"):
  arguments = ["import", folder, "--as", "vit_ti16", "--layout", layout, "--out", out, *options]
  return [str(a) for a in arguments]


def test_a_folder_of_hugging_face_needs_no_options_for_what_it_says(folder, out):
  assert cli.main(import_folder(folder, out, *VIT_KEYWORDS)) == 0
  config = checkpoint.load(out).config
  assert config["model"]["activation"] == "quick_gelu"
  assert config["model"]["norm_epsilon"] == 1e-3
  assert config["classes"] == list(CLASSES)
  assert config["transforms"] == [
    dict(fn=".data.resize", size=[16, 16], interpolation="bilinear"),
    dict(fn=".data.normalize", mean=[0.1] * 3, std=[0.2] * 3),
  ]
  assert config["source"]["file"] == "model.safetensors"


def test_options_go_over_the_files_beside_the_weight(folder, out, tmp_path):
  (tmp_path / "names.txt").write_text("x\ny\nz\n")
  options = ["norm_epsilon=1e-4", "--classes", tmp_path / "names.txt", "--mean", "0.3,0.3,0.3"]
  assert cli.main(import_folder(folder, out, *VIT_KEYWORDS, *options)) == 0
  config = checkpoint.load(out).config
  assert config["model"]["norm_epsilon"] == 1e-4
  assert config["model"]["activation"] == "quick_gelu"
  assert config["classes"] == ["x", "y", "z"]
  assert config["transforms"][1] == dict(fn=".data.normalize", mean=[0.3] * 3, std=[0.2] * 3)


@pytest.fixture
def own(tmp_path):
  """An export of ours."""
  from jaxtl.pretrained.exporting import export

  keywords = dict(image_size=16, patch_size=8, width=8, depth=2, num_heads=2)
  export(as_weights("vit_ti16", **keywords), tmp_path / "own", format="safetensors")
  return tmp_path / "own"


def test_an_export_of_ours_says_all_that_it_needs(own, out):
  assert cli.main(import_folder(own, out, layout="jaxtl")) == 0
  config = checkpoint.load(out).config
  told = json.loads((own / "config.json").read_text())
  assert config["model"] == told["model"]
  assert config["classes"] == told["classes"]
  assert config["image_shape"] == told["image_shape"]


def test_another_image_size_goes_over_that_of_an_export(own, out):
  assert cli.main(import_folder(own, out, "--image-size", "32", layout="jaxtl")) == 0
  weights = checkpoint.load(out)
  assert weights.config["model"]["image_size"] == 32
  assert weights.params["embed"]["positions"].shape == (1, 17, 8)


@pytest.mark.parametrize(
  "hostile",
  [
    {"width": {"make": "subprocess.run", "args": ["touch", "started"]}},
    {"width": [{"make": "subprocess.run", "args": ["touch", "started"]}]},
    {"dtype": {"fn": "os.system"}},
    {"fn": "os.system"},
  ],
)
def test_a_config_beside_the_weight_starts_no_program(own, out, capsys, hostile, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  config = json.loads((own / "config.json").read_text())
  (own / "config.json").write_text(json.dumps(config | {"model": config["model"] | hostile}))
  line = refused(capsys, *import_folder(own, out, layout="jaxtl"))
  assert "is not a keyword of a model; expected a number or a name" in line
  assert not Path("started").exists()
  assert list(out.parent.iterdir()) == []


REAL = {
  "an old CLIP of transformers": (
    "hugging_face",
    "clip_text_b",
    dict(
      model_type="clip",
      projection_dim=512,
      logit_scale_init_value=2.6592,
      initializer_factor=1.0,
      torch_dtype="float32",
      transformers_version=None,
      text_config_dict=None,
      text_config=dict(
        _name_or_path="",
        add_cross_attention=False,
        architectures=None,
        attention_dropout=0.0,
        bad_words_ids=None,
        bos_token_id=0,
        chunk_size_feed_forward=0,
        do_sample=False,
        eos_token_id=2,
        hidden_act="quick_gelu",
        hidden_size=512,
        id2label={"0": "LABEL_0", "1": "LABEL_1"},
        intermediate_size=2048,
        is_decoder=False,
        is_encoder_decoder=False,
        layer_norm_eps=1e-05,
        max_length=20,
        max_position_embeddings=77,
        model_type="clip_text_model",
        num_attention_heads=8,
        num_beams=1,
        num_hidden_layers=12,
        pad_token_id=1,
        pruned_heads={},
        return_dict=True,
        temperature=1.0,
        tie_word_embeddings=True,
        top_k=50,
        torchscript=False,
        use_bfloat16=False,
        vocab_size=49408,
      ),
    ),
  ),
  "a fine-tuned ViT of transformers": (
    "hugging_face",
    "vit_b16",
    dict(
      _name_or_path="google/vit-base-patch16-224",
      architectures=["ViTForImageClassification"],
      attention_probs_dropout_prob=0.0,
      encoder_stride=16,
      hidden_act="gelu",
      hidden_dropout_prob=0.0,
      hidden_size=768,
      id2label=LABELS,
      image_size=224,
      initializer_range=0.02,
      intermediate_size=3072,
      label2id=dict(ant="0", bee="1", cat="2"),
      layer_norm_eps=1e-12,
      max_length=128,
      model_type="vit",
      num_attention_heads=12,
      num_channels=3,
      num_hidden_layers=12,
      padding="max_length",
      patch_size=16,
      pooler_act="tanh",
      pooler_output_size=768,
      problem_type="single_label_classification",
      qkv_bias=True,
      torch_dtype="float32",
      transformers_version="4.31.0",
    ),
  ),
  "timm's": (
    "timm",
    "vit_b16",
    dict(
      architecture="vit_base_patch16_224",
      num_classes=1000,
      num_features=768,
      global_pool="token",
      pretrained_cfg=dict(
        tag="augreg2_in21k_ft_in1k",
        custom_load=False,
        input_size=[3, 224, 224],
        fixed_input_size=True,
        interpolation="bicubic",
        crop_pct=0.9,
        crop_mode="center",
        mean=HALF,
        std=HALF,
        num_classes=1000,
        pool_size=None,
        first_conv="patch_embed.proj",
        classifier="head",
        license="apache-2.0",
      ),
    ),
  ),
  "open_clip's": (
    "open_clip",
    "clip_vit_b32",
    dict(
      model_cfg=dict(
        embed_dim=512,
        vision_cfg=dict(image_size=224, layers=12, width=768, patch_size=32),
        text_cfg=dict(context_length=77, vocab_size=49408, width=512, heads=8, layers=12),
      ),
      preprocess_cfg=dict(
        size=[224, 224],
        mode="RGB",
        mean=HALF,
        std=HALF,
        interpolation="bicubic",
        resize_mode="shortest",
        fill_color=0,
      ),
    ),
  ),
}


@pytest.mark.parametrize("name", REAL)
def test_files_as_the_libraries_write_them_are_read(tmp_path, name):
  layout, model, config = REAL[name]
  file = "open_clip_config" if layout == "open_clip" else "config"
  found = facts(tmp_path, layout, model, **{file: config})
  assert found.keywords.get("num_heads", 12) in (8, 12)
  assert found.assumed == ()
