"""`jaxtl export`: the same bytes each time, whole folders or nothing, and only what the library computes."""

import dataclasses
import json

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxtl import cli, config, models
from jaxtl.checkpoints import checkpoint
from jaxtl.errors import InputError
from jaxtl.pretrained import exporting
from jaxtl.pretrained.exporting import FORMATS, export
from jaxtl.pretrained.importing import import_weights
from jaxtl.pretrained.layouts.layout import read
from jaxtl.train.step import shapes_of
from tests.oracles.cases import random_weights
from tests.pretrained.made_weights import CLASSES, VIT, as_weights, refused, small

VIT16 = dict(image_size=16, **VIT)
# A model that each format takes, small where the library lets a name have other sizes.
FIT = {
  "orbax": ("resnet8", dict(width=2)),
  "safetensors": ("resnet8", dict(width=2)),
  "npz": ("resnet8", dict(width=2)),
  "torchvision": ("vit_b16", dict(image_size=16, patch_size=8, width=12, depth=2)),
  "timm": ("vit_ti16", VIT16),
  "hugging_face": ("vit_ti16", VIT16),
  "stablehlo": ("resnet8", dict(width=2)),
  "onnx": ("resnet8", dict(width=2)),
}


def fitting(form, **more):
  name, keywords = FIT[form]
  return as_weights(name, **keywords, **more)


def files(folder):
  return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_format_has_a_model_here():
  assert set(FIT) == set(FORMATS)


@pytest.mark.parametrize("form", FORMATS)
def test_an_export_is_a_folder_with_its_classes(tmp_path, form):
  export(fitting(form), tmp_path / "out", format=form)
  assert json.loads((tmp_path / "out" / "classes.json").read_text()) == list(CLASSES)
  assert len(files(tmp_path / "out")) > 1
  assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("form", FORMATS)
def test_a_folder_that_exists_is_left_alone(tmp_path, form):
  with pytest.raises(InputError, match="exists already; give a folder that does not"):
    export(fitting(form), tmp_path, format=form)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", FORMATS)
def test_an_export_that_fails_leaves_nothing(tmp_path, form, monkeypatch):
  def broken(*_, **__):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(exporting.json, "dumps", broken)
  with pytest.raises(OSError, match="No space left"):
    export(fitting(form), tmp_path / "out", format=form)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  "form", [form for form in FORMATS if form != "orbax"]
)  # it writes when it was written
def test_the_same_weight_gives_the_same_bytes(tmp_path, form):
  for name in ("one", "two"):
    export(fitting(form), tmp_path / name, format=form)
  assert files(tmp_path / "one") == files(tmp_path / "two")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(InputError, match=r"cannot write to .*: "):
    export(fitting("npz"), tmp_path / "file" / "out", format="npz")


@pytest.mark.parametrize("name", ["resnet8", "vit_ti16", "clip_text_b"])
def test_out_and_in_and_out_again_is_the_same_file(tmp_path, name):
  text = dict(width=4, depth=1, num_heads=2, embed_dim=4, vocabulary=8, context=16)
  keywords = {"resnet8": dict(width=2), "vit_ti16": VIT16, "clip_text_b": text}[name]
  weights = as_weights(name, classes=() if name == "clip_text_b" else CLASSES, **keywords)
  export(weights, tmp_path / "one", format="safetensors")
  arguments = [
    "import",
    tmp_path / "one",
    "--as",
    name,
    "--layout",
    "jaxtl",
    "--out",
    tmp_path / "checkpoint",
  ]
  assert cli.main([str(a) for a in arguments]) == 0
  arguments = ["export", tmp_path / "checkpoint", tmp_path / "two", "--format", "safetensors"]
  assert cli.main([str(a) for a in arguments]) == 0
  one, two = files(tmp_path / "one"), files(tmp_path / "two")
  path = next(path for path in one if path.name == "model.safetensors")
  assert one[path] == two[path]


@pytest.mark.parametrize(
  ("form", "name", "keywords"),
  [
    ("torchvision", "vit_b16", FIT["torchvision"][1]),
    ("torchvision", "mobilenet_v2", {}),
    ("timm", "vit_s16", VIT16 | dict(pooling="distilled")),
    ("hugging_face", "vit_ti16", VIT16 | dict(norm_epsilon=1e-12)),
  ],
)
def test_a_layout_of_others_comes_back_bit_by_bit(tmp_path, form, name, keywords):
  from jaxtl.pretrained import LAYOUTS

  weights = as_weights(name, **keywords)
  export(weights, tmp_path / "one", format=form)
  preprocessing = dict(size=16, crop_fraction=None, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
  back = import_weights(
    tmp_path / "one",
    model=name,
    layout=LAYOUTS[form],
    keywords=keywords,
    classes=CLASSES,
    preprocessing=preprocessing,
  ).weights
  export(back, tmp_path / "two", format=form)
  one, two = tmp_path / "one" / "model.safetensors", tmp_path / "two" / "model.safetensors"
  assert one.read_bytes() == two.read_bytes()
  tensors = load_file(one)  # torch counts the batches of each norm, in a scalar
  counters = [key for key in tensors if key.endswith("num_batches_tracked")]
  means = [key for key in tensors if key.endswith("running_mean")]
  assert len(counters) == len(means) == (0 if name.startswith("vit") else 52)
  assert all(tensors[key].shape == () and tensors[key].dtype == np.int64 for key in counters)


@pytest.mark.parametrize(
  ("form", "name", "keywords", "message"),
  [
    ("torchvision", "resnet50", dict(padding="same"), "torchvision's resnet50 has padding='symmetric'"),
    ("torchvision", "resnet50", dict(head="cosine"), "torchvision's resnet50 has head='linear'"),
    ("torchvision", "resnet50", dict(width=32), "torchvision's resnet50 has width=64"),
    ("torchvision", "resnet18", dict(stem="cifar"), "has stem='imagenet'"),
    ("torchvision", "resnet18", dict(bn_epsilon=1e-3), "has bn_epsilon=1e-05"),
    ("torchvision", "efficientnet_b5", dict(bn_epsilon=1e-5), "has bn_epsilon=0.001"),
    ("torchvision", "vit_b16", VIT16 | dict(width=12), "torchvision's vit_b16 has num_heads=12"),
    ("torchvision", "vit_b16", FIT["torchvision"][1] | dict(activation="gelu_tanh"), "has activation='gelu'"),
    ("torchvision", "vit_b16", FIT["torchvision"][1] | dict(pooling="mean"), "has pooling='token'"),
    ("torchvision", "vit_ti16", VIT16, "torchvision has no vit_ti16; it has densenet121"),
    ("timm", "vit_ti16", VIT16 | dict(norm_epsilon=1e-12), "timm's vit_ti16 has norm_epsilon=1e-06"),
    ("timm", "vit_ti16", VIT16 | dict(head="cosine"), "timm's vit_ti16 has head='linear'"),
    ("timm", "resnet18", dict(padding="same"), "timm's resnet18 has padding='symmetric'"),
    ("timm", "efficientnet_b0", dict(padding="same", bn_epsilon=1e-5), "has bn_epsilon=0.001"),
    ("timm", "resnet8", dict(width=2), "timm has no resnet8"),
  ],
)
def test_a_model_that_the_library_computes_otherwise_is_refused(tmp_path, form, name, keywords, message):
  weights = checkpoint.Weights({}, {}, as_config(name, keywords), "memory")
  with pytest.raises(InputError) as caught:
    export(weights, tmp_path / "out", format=form)
  assert message in str(caught.value)
  assert "\n" not in str(caught.value)
  assert list(tmp_path.iterdir()) == []


def as_config(name, keywords):
  """The config of a checkpoint whose arrays are not looked at."""
  transforms = [dict(fn=".data.normalize")]
  model = {"make": f".models.{name}", **keywords}
  return dict(model=model, classes=list(CLASSES), image_shape=[16, 16, 3], transforms=transforms)


AUGMENTED = [
  [dict(fn=".data.flip_left_right"), dict(fn=".data.normalize")],
  [dict(fn=".data.normalize"), dict(fn=".data.resize", size=16)],
  [dict(fn=".data.resize", size=16)],
]


@pytest.mark.parametrize("transforms", AUGMENTED)
@pytest.mark.parametrize("form", ["stablehlo", "timm", "hugging_face"])
def test_images_that_are_prepared_in_another_way_need_a_format_that_does_not_say_how(
  tmp_path, form, transforms
):
  weights = as_weights(*FIT[form][:1], **FIT[form][1], transforms=transforms)
  with pytest.raises(InputError, match=r"a resize, a crop and a normalisation, .*export it as safetensors"):
    export(weights, tmp_path / "out", format=form)
  assert list(tmp_path.iterdir()) == []
  export(weights, tmp_path / "out", format="safetensors")


def test_a_checkpoint_without_preprocessing_has_no_program(tmp_path):
  weights = as_weights("clip_text_b", width=4, depth=1, num_heads=2, embed_dim=4, vocabulary=8, context=16)
  with pytest.raises(InputError, match="export it as safetensors"):
    export(weights, tmp_path / "out", format="stablehlo")


@pytest.mark.parametrize("alpha", [None, 2.0])
def test_factors_of_lora_are_added_to_the_kernels(tmp_path, alpha):
  given = {} if alpha is None else dict(alpha=alpha)
  plain = fitting("timm")
  spec = dict(make=".models.lora", rank=2, model=plain.config["model"], **given)
  model = config.spec(spec).realize(num_classes=len(CLASSES))
  params = random_weights(shapes_of(model, (16, 16, 3)))["params"]
  weights = dataclasses.replace(plain, params=params, config={**plain.config, "model": spec})
  export(weights, tmp_path / "lora", format="timm")
  merged = models.merge_factors(params, alpha=alpha or 8.0)
  assert any(
    np.any(x != y) for x, y in zip(jax.tree.leaves(merged), jax.tree.leaves(plain.params), strict=True)
  )
  export(dataclasses.replace(plain, params=merged), tmp_path / "merged", format="timm")
  assert files(tmp_path / "lora") == files(tmp_path / "merged")


def test_a_format_that_needs_no_model_does_not_look_for_its_function(tmp_path):
  weights = fitting("npz")
  weights = dataclasses.replace(weights, config={**weights.config, "model": {"make": "elsewhere.network"}})
  export(weights, tmp_path / "out", format="npz")
  assert (tmp_path / "out" / "classes.json").is_file()


def test_the_command_says_what_it_wrote_and_refuses_in_one_line(tmp_path, capsys):
  checkpoint.save_weights(fitting("npz"), tmp_path / "checkpoint")
  out = tmp_path / "out"
  assert cli.main(["export", str(tmp_path / "checkpoint"), str(out), "--format", "npz"]) == 0
  assert capsys.readouterr().out.startswith(f"wrote {out} from ")
  assert "exists already" in refused(capsys, "export", tmp_path / "checkpoint", out)
  other = tmp_path / "other"
  line = refused(capsys, "export", tmp_path / "checkpoint", other, "--format", "torchvision")
  assert "torchvision has no resnet8" in line
  assert not other.exists()


def test_what_the_layout_of_an_export_says_is_all_of_the_weight(tmp_path):
  """The tensors alone, without our table's help, hold every value once."""
  weights = as_weights("vit_ti16", **VIT16)
  export(weights, tmp_path / "out", format="timm")
  tensors = load_file(tmp_path / "out" / "model.safetensors")
  model = weights.model_spec().realize(num_classes=3)
  shapes = shapes_of(model, (16, 16, 3))
  from jaxtl.pretrained import LAYOUTS

  back, left = read(LAYOUTS["timm"].entries(model, shapes), tensors, shapes)
  assert left == []
  np.testing.assert_array_equal(back["params"]["head"]["kernel"], weights.params["head"]["kernel"])
  assert sum(value.size for value in tensors.values()) == 3379


FAMILIES = [
  *("resnet8", "resnet18", "resnet50", "wide_resnet28_10", "mobilenet_v2"),
  *("efficientnet_b0", "efficientnet_lite0", "vit_ti16", "clip_vit_b32", "clip_text_b"),
]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_takes_a_batch_that_is_a_symbol(name):
  model, shapes = small(name)
  size = shapes["params"]["embed"]["positions"].shape[1] if name == "clip_text_b" else 32
  if "embed" in shapes["params"] and name != "clip_text_b":
    size = 2 * shapes["params"]["embed"]["proj"]["kernel"].shape[0]
  (batch,) = jax.export.symbolic_shape("b")
  form = (batch, size) if name == "clip_text_b" else (batch, size, size, 3)
  given = jax.ShapeDtypeStruct(form, jnp.int32 if name == "clip_text_b" else jnp.float32)
  features, _ = jax.eval_shape(model.apply, shapes["params"], shapes["batch_stats"], given)
  assert features["pooled"].shape[0] == batch
