"""Every layout with every model that it names: complete, unambiguous, reversible, under the known names."""

import functools
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import save

from jaxtl import config, models, tree
from jaxtl.cli import parser
from jaxtl.errors import CheckpointError, ConfigError
from jaxtl.pretrained import LAYOUTS, read, write
from jaxtl.pretrained.exporting import FORMATS
from jaxtl.train.step import shapes_of
from tests.oracles.cases import random_weights
from tests.pretrained.made_weights import NAMES, made, small, small_vit

pytestmark = pytest.mark.slow

PAIRS = [(layout, name) for layout in LAYOUTS for name in NAMES if LAYOUTS[layout].has(name)]
READ_ONLY = ("big_vision", "augreg", "mlperf_tiny", "tflite", "dinov2")
# Folded into the kernel and the bias of one layer.
SHARED = r".*\.layer_scale\d\.lambda1"


def both_vits(layout, name):
  """The small model, and the poolings of a vision transformer that have other tokens."""
  yield small(name)
  if name == "vit_ti16" and layout in ("timm", "hugging_face", "jaxtl"):
    for pooling in ("mean", "distilled") if layout != "hugging_face" else ("distilled",):
      model = small_vit(layout, pooling=pooling)
      yield model.model, model.shapes


def test_the_command_line_lists_what_there_is():
  assert tuple(LAYOUTS) == parser.LAYOUTS
  assert tuple(FORMATS) == parser.EXPORTS
  assert all(layout.name == name and layout.covers for name, layout in LAYOUTS.items())


@pytest.mark.parametrize(("layout", "name"), PAIRS)
def test_every_leaf_has_its_own_tensors(layout, name):
  for model, shapes in both_vits(layout, name):
    entries = LAYOUTS[layout].entries(model, shapes)
    assert [entry.path for entry in entries] == tree.paths(shapes)
    assert [entry.shape for entry in entries] == [leaf.shape for leaf in jax.tree.leaves(shapes)]
    keys = [key for entry in entries for key in entry.keys]
    assert len(keys) - len(set(keys)) == len({key for key in keys if re.fullmatch(SHARED, key)})
    ignored = [key for key in keys if re.fullmatch(LAYOUTS[layout].ignored, key)]
    assert not ignored
    assert set(LAYOUTS[layout].canonical(dict.fromkeys(keys))) == set(keys)


@pytest.mark.parametrize(("layout", "name"), [pair for pair in PAIRS if pair[0] not in READ_ONLY])
def test_what_is_written_is_read_back_bit_by_bit(layout, name):
  for model, shapes in both_vits(layout, name):
    entries = LAYOUTS[layout].entries(model, shapes)
    ours = random_weights(shapes)
    theirs = write(entries, ours)
    back, left = read(entries, theirs, shapes)
    assert left == []
    jax.tree.map(np.testing.assert_array_equal, back, ours)
    assert save(write(entries, back)) == save(theirs)


@pytest.mark.parametrize(("layout", "name"), PAIRS)
def test_the_numerics_and_the_preprocessing_of_a_layout_are_keywords_and_transforms(layout, name):
  config.spec({"make": f".models.{name}", **LAYOUTS[layout].keywords(name)})
  for transform in LAYOUTS[layout].preprocessing(name).specs():
    config.spec(transform)


@pytest.mark.parametrize(
  ("layout", "name"), [("big_vision", "vit_ti16"), ("augreg", "vit_ti16"), ("mlperf_tiny", "resnet8")]
)
def test_a_layout_that_is_only_read_cannot_be_written(layout, name):
  model, shapes = small(name)
  with pytest.raises(ConfigError, match="read-only"):
    write(LAYOUTS[layout].entries(model, shapes), random_weights(shapes))


def test_a_layout_says_what_it_has_where_it_lacks_a_model():
  model, shapes = small("resnet18")
  with pytest.raises(ConfigError, match="'openai' has no resnet18; it has clip_text_b"):
    LAYOUTS["openai"].entries(model, shapes)


# (layout, model) -> their name and their shape, as the libraries' own state dicts have them.
KNOWN = {
  ("torchvision", "resnet50"): {
    "conv1.weight": (64, 3, 7, 7),
    "layer1.0.downsample.0.weight": (256, 64, 1, 1),
    "layer1.0.downsample.1.running_mean": (256,),
    "layer4.2.conv3.weight": (2048, 512, 1, 1),
    "layer4.2.bn3.running_var": (2048,),
    "fc.weight": (1000, 2048),
  },
  ("torchvision", "densenet121"): {
    "features.conv0.weight": (64, 3, 7, 7),
    "features.denseblock4.denselayer16.conv2.weight": (32, 128, 3, 3),
    "features.transition1.conv.weight": (128, 256, 1, 1),
    "features.norm5.bias": (1024,),
    "classifier.weight": (1000, 1024),
  },
  ("torchvision", "efficientnet_b0"): {
    "features.0.0.weight": (32, 3, 3, 3),
    "features.1.0.block.0.0.weight": (32, 1, 3, 3),
    "features.1.0.block.2.0.weight": (16, 32, 1, 1),
    "features.2.0.block.2.fc1.weight": (4, 96, 1, 1),
    "features.8.0.weight": (1280, 320, 1, 1),
    "classifier.1.weight": (1000, 1280),
  },
  ("torchvision", "mobilenet_v2"): {
    "features.1.conv.1.weight": (16, 32, 1, 1),
    "features.2.conv.0.0.weight": (96, 16, 1, 1),
    "features.2.conv.3.running_var": (24,),
    "features.18.0.weight": (1280, 320, 1, 1),
    "classifier.1.bias": (1000,),
  },
  ("torchvision", "vit_b16"): {
    "class_token": (1, 1, 768),
    "conv_proj.weight": (768, 3, 16, 16),
    "encoder.pos_embedding": (1, 197, 768),
    "encoder.layers.encoder_layer_0.self_attention.in_proj_weight": (2304, 768),
    "encoder.layers.encoder_layer_11.mlp.3.bias": (768,),
    "heads.head.weight": (1000, 768),
  },
  ("timm", "efficientnet_b0"): {
    "conv_stem.weight": (32, 3, 3, 3),
    "blocks.0.0.conv_pw.weight": (16, 32, 1, 1),  # the projection
    "blocks.1.0.conv_pw.weight": (96, 16, 1, 1),  # the expansion
    "blocks.1.0.conv_pwl.weight": (24, 96, 1, 1),
    "blocks.6.0.se.conv_reduce.weight": (48, 1152, 1, 1),
    "conv_head.weight": (1280, 320, 1, 1),
    "classifier.weight": (1000, 1280),
  },
  ("timm", "vit_s16"): {
    "cls_token": (1, 1, 384),
    "pos_embed": (1, 197, 384),
    "patch_embed.proj.weight": (384, 3, 16, 16),
    "blocks.11.attn.qkv.weight": (1152, 384),
    "blocks.0.mlp.fc1.weight": (1536, 384),
    "norm.weight": (384,),
    "head.weight": (1000, 384),
  },
  ("hugging_face", "vit_b16"): {
    "vit.embeddings.cls_token": (1, 1, 768),
    "vit.embeddings.position_embeddings": (1, 197, 768),
    "vit.encoder.layer.0.attention.attention.query.weight": (768, 768),
    "vit.encoder.layer.0.attention.attention.value.bias": (768,),
    "vit.encoder.layer.11.output.dense.weight": (768, 3072),
    "vit.layernorm.weight": (768,),
    "classifier.weight": (1000, 768),
  },
  ("hugging_face", "clip_vit_b32"): {
    "vision_model.embeddings.class_embedding": (768,),
    "vision_model.embeddings.position_embedding.weight": (50, 768),
    "vision_model.pre_layrnorm.weight": (768,),
    "vision_model.encoder.layers.11.self_attn.q_proj.weight": (768, 768),
    "vision_model.encoder.layers.11.mlp.fc1.weight": (3072, 768),
    "visual_projection.weight": (512, 768),
  },
  ("openai", "clip_vit_b32"): {
    "visual.proj": (768, 512),
    "visual.class_embedding": (768,),
    "visual.positional_embedding": (50, 768),
    "visual.conv1.weight": (768, 3, 32, 32),
    "visual.transformer.resblocks.11.attn.in_proj_weight": (2304, 768),
    "visual.ln_post.bias": (768,),
  },
  ("openai", "clip_text_b"): {
    "token_embedding.weight": (49408, 512),
    "positional_embedding": (77, 512),
    "transformer.resblocks.11.mlp.c_fc.weight": (2048, 512),
    "ln_final.weight": (512,),
    "text_projection": (512, 512),
    "logit_scale": (),
  },
  ("akamaster", "resnet20"): {"layer3.2.conv2.weight": (64, 64, 3, 3), "linear.weight": (1000, 64)},
  ("wide_resnet_pytorch", "wide_resnet28_10"): {
    "block1.layer.0.convShortcut.weight": (160, 16, 1, 1),
    "block3.layer.3.conv2.weight": (640, 640, 3, 3),
    "bn1.weight": (640,),
    "fc.weight": (1000, 640),
  },
  ("lukemelas", "efficientnet_b0"): {
    "_blocks.0._depthwise_conv.weight": (32, 1, 3, 3),
    "_blocks.15._project_conv.weight": (320, 1152, 1, 1),
    "_conv_head.weight": (1280, 320, 1, 1),
    "_fc.weight": (1000, 1280),
  },
}


@functools.cache
def full(name):
  """(model, shapes) of the size that its name says."""
  model = getattr(models, name)(**({} if "text" in name else dict(num_classes=1000)))
  return model, shapes_of(model, (77,) if "text" in name else (224, 224, 3))


@pytest.mark.parametrize(("layout", "name"), KNOWN)
def test_the_names_and_shapes_are_those_of_the_library(layout, name):
  model, shapes = full(name)
  wanted = KNOWN[layout, name]
  entries = [e for e in LAYOUTS[layout].entries(model, shapes) if set(e.keys) & set(wanted)]
  zeros = tree.map_with_path(lambda _, leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
  found = {key: value.shape for key, value in write(entries, zeros).items()}
  assert {key: found.get(key) for key in wanted} == wanted


def test_hugging_face_keeps_query_key_and_value_apart():
  vit = small_vit("hugging_face")
  fused = vit.ours["params"]["block2"]["attn"]["qkv"]
  for number, part in enumerate(("query", "key", "value")):
    name, columns = f"vit.encoder.layer.1.attention.attention.{part}", slice(8 * number, 8 * number + 8)
    np.testing.assert_array_equal(vit.theirs[f"{name}.weight"], fused["kernel"][:, columns].T)
    np.testing.assert_array_equal(vit.theirs[f"{name}.bias"], fused["bias"][columns])


def test_the_classifiers_of_quantised_mobilenets_stand_behind_all_operations():
  # The stem, 13 pairs and the pooling; the stem, 50 convolutions, 10 additions, the top and the pooling.
  for name, head in (("mobilenet_v1", "028_conv_2d"), ("mobilenet_v2", "063_conv_2d")):
    model, shapes = small(name)
    entries = {entry.path: entry for entry in LAYOUTS["tflite"].entries(model, shapes)}
    assert entries["params/head/bias"].keys == (f"{head}/bias",)
    assert entries["params/stem/conv/kernel"].keys[0] == "000_conv_2d/kernel_u8"


def test_a_quantised_kernel_is_scale_times_what_is_above_the_zero_point():
  model, shapes = small("mobilenet_v1")
  entries = {entry.path: entry for entry in LAYOUTS["tflite"].entries(model, shapes)}
  rng = np.random.default_rng(0)
  for path in ("params/stem/conv/kernel", "params/head/kernel"):
    entry = entries[path]
    stored = rng.integers(0, 256, (1,) * (4 - len(entry.shape)) + entry.shape).astype(np.uint8)
    found = entry.rule.to_ours([stored, np.uint8(128), np.float32(0.5)], entry.shape)
    np.testing.assert_array_equal(found, (stored.reshape(entry.shape).astype(np.float32) - 128) / 2)


def test_the_bias_of_a_keras_convolution_moves_into_the_mean_behind_it():
  model, shapes = small("resnet8")
  entries = {e.path: e for e in LAYOUTS["mlperf_tiny"].entries(model, shapes)}
  entry = entries["batch_stats/stage3_block1/bn2/mean"]
  assert entry.keys == ("batch_normalization_6/moving_mean:0", "conv2d_7/bias:0")
  mean, bias, x = (np.random.default_rng(seed).standard_normal(16) for seed in range(3))
  np.testing.assert_allclose(x - entry.rule.to_ours([mean, bias], (16,)), (x + bias) - mean, rtol=1e-6)


@pytest.mark.parametrize("layout", ["torchvision", "timm"])
def test_old_names_of_densenets_mean_the_new_ones(layout):
  entries = LAYOUTS[layout].entries(*small("densenet121"))
  new = {key for entry in entries for key in entry.keys}
  old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key) for key in new}
  assert "features.denseblock1.denselayer1.norm.1.weight" in old
  assert set(LAYOUTS[layout].canonical(dict.fromkeys(old))) == new


def test_old_names_of_vision_transformers_mean_the_new_ones():
  new = small_vit("torchvision", name="vit_b16").theirs
  old = {key.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2") for key in new}
  assert set(LAYOUTS["torchvision"].canonical(dict.fromkeys(old))) == set(new)


def test_what_carries_no_weight_is_left_aside():
  tensors = {"layer1.0.bn1.num_batches_tracked": 1, "bn1.num_batches_tracked": 2, "fc.bias": 3}
  assert LAYOUTS["torchvision"].canonical(tensors) == {"fc.bias": 3}
  assert LAYOUTS["big_vision"].canonical({"params/head/bias": 1, "opt/0/mu/head/bias": 2}) == {"head/bias": 1}
  assert LAYOUTS["augreg"].canonical({"opt/target/head/bias": 1}) == {"head/bias": 1}
  assert LAYOUTS["akamaster"].canonical({"module.linear.bias": 1}) == {"linear.bias": 1}


@pytest.mark.parametrize("layout", ["openai", "open_clip", "hugging_face"])
def test_a_file_of_both_towers_gives_each_of_them(layout):
  sizes = dict(width=8, depth=1, num_heads=2, embed_dim=4)
  image = made(layout, "clip_vit_b32", size=32, image_size=32, patch_size=16, num_classes=0, **sizes)
  text = made(layout, "clip_text_b", size=5, vocabulary=9, context=5, **sizes)
  both = image.theirs | text.theirs
  assert len(both) == len(image.theirs) + len(text.theirs)
  for one, other in ((image, text), (text, image)):
    mine, others = LAYOUTS[layout].split(one.model, one.shapes, both)
    assert others == len(other.theirs)
    back, _ = read(one.entries, mine, one.shapes)
    jax.tree.map(np.testing.assert_array_equal, back, one.ours)


def test_all_that_does_not_fit_is_in_one_line():
  vit = small_vit("timm")
  wrong = {key: value for key, value in vit.theirs.items() if key != "norm.bias"}
  wrong |= {"head.weight": np.zeros((3, 9), np.float32), "more": np.zeros(2, np.float32)}
  with pytest.raises(CheckpointError) as caught:
    read(vit.entries, wrong, vit.shapes)
  for part in (
    "norm.bias is missing from the file",
    r"head.weight is (3, 9)",
    "more (2,) of the file has no place in the model",
  ):
    assert part in str(caught.value)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_in_single_precision_are_refused(value):
  vit = small_vit("timm")
  bad = vit.theirs | {"norm.bias": np.array([value] * 8)}
  with pytest.raises(CheckpointError, match=r"norm.bias holds values that are not finite"):
    read(vit.entries, bad, vit.shapes)


def test_half_precision_becomes_single_before_anything_is_computed():
  vit = small_vit("timm", pooling="distilled")
  halves = {key: value.astype(np.float16) for key, value in vit.theirs.items()}
  singles = {key: value.astype(np.float32) for key, value in halves.items()}
  found, _ = read(vit.entries, halves, vit.shapes)
  expected, _ = read(vit.entries, singles, vit.shapes)
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(found))
