"""Names and configs of jaxtl's models in the libraries that can load them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtl.config import Spec
from jaxtl.data import Preprocessing
from jaxtl.errors import InputError
from jaxtl.pretrained.verify import keywords_of

TRANSFORMERS_ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_tanh": "gelu_pytorch_tanh"}
_PIL = {"bilinear": 2, "bicubic": 3}
# Numerics of a library's convolutional networks, unless their name indicates others.
_TORCH = dict(padding="symmetric", bn_epsilon=1e-5)
_TF = dict(padding="same", bn_epsilon=1e-3)
_LARGE = dict(padding="symmetric", bn_epsilon=1e-3)
_PLAIN_HEAD = dict(head="linear")
# Keywords that change a model's function or shape beyond what its name specifies.
_SHAPE = ("width", "depth", "growth", "width_factor", "depth_factor", "stem", "shortcut")


def name_of(spec: Spec) -> str:
  """Returns jaxtl's name of a model."""
  return spec.path.rpartition(".")[2]


def check_torchvision(spec: Spec) -> None:
  """Raises InputError if torchvision's model of that name computes something else."""
  name = name_of(spec)
  if name.startswith("vit"):
    # The shapes of a file show all other sizes, which torchvision takes as arguments.
    heads = dict(num_heads=_defaults(spec)["num_heads"])
    _same(spec, "torchvision", activation="gelu", norm_epsilon=1e-6, pooling="token", **heads, **_PLAIN_HEAD)
    return
  large = name in ("efficientnet_b5", "efficientnet_b6", "efficientnet_b7")
  _same(spec, "torchvision", **(_LARGE if large else _TORCH), **_own_shape(spec), **_PLAIN_HEAD)


def timm_can(spec: Spec) -> bool:
  """Returns whether timm builds a model that computes the same."""
  try:
    _timm_name(spec)
  except InputError:
    return False
  return True


def _timm_name(spec: Spec) -> str:
  name = name_of(spec)
  if name.startswith("vit"):
    _same(spec, "timm", activation="gelu", norm_epsilon=1e-6, **_PLAIN_HEAD)
    size, patch = name.removeprefix("vit_")[:-2], name[-2:]
    # Sizes are passed as arguments in addition to the name, so the base name may differ in size: timm has no
    # tiny model with patches of 32 and no large distilled one.
    if keywords_of(spec)["pooling"] == "distilled":
      long = {"ti": "tiny", "s": "small"}.get(size, "base")
      return f"deit_{long}_distilled_patch16_224"
    long = {"ti": "tiny", "s": "small", "b": "base", "l": "large"}[size]
    return f"vit_{long}_patch{16 if size == 'ti' else patch}_224"
  padding = keywords_of(spec).get("padding")
  from_tf = name.startswith("efficientnet") and padding == "same"
  _same(spec, "timm", **(_TF if from_tf else _TORCH), **_own_shape(spec), **_PLAIN_HEAD)
  name = {"mobilenet_v2": "mobilenetv2_100"}.get(name, name)
  return f"tf_{name}" if from_tf else name


def timm_config(spec: Spec, classes: Sequence[str], preprocessing: Preprocessing) -> dict[str, Any]:
  """Returns the `config.json` for timm's `create_model("local-dir:FOLDER", pretrained=True)`.

  Raises:
    InputError: timm's model computes something else.
  """
  architecture = _timm_name(spec)
  k = keywords_of(spec)
  config: dict[str, Any] = dict(architecture=architecture, num_classes=len(classes))
  if architecture.startswith(("vit", "deit")):
    arguments = dict(img_size=k["image_size"], patch_size=k["patch_size"], embed_dim=k["width"])
    arguments |= dict(depth=k["depth"], num_heads=k["num_heads"])
    if k["pooling"] == "mean":
      arguments |= dict(global_pool="avg", class_token=False, fc_norm=False)
      config["global_pool"] = "avg"
    config["model_args"] = arguments
  config["pretrained_cfg"] = dict(
    input_size=[3, preprocessing.size, preprocessing.size],
    interpolation=preprocessing.interpolation,
    mean=list(preprocessing.mean),
    std=list(preprocessing.std),
    crop_pct=preprocessing.crop_fraction or 1.0,
    crop_mode="squash" if preprocessing.crop_fraction is None else "center",
    num_classes=len(classes),
    pool_size=None,
    fixed_input_size=architecture.startswith(("vit", "deit")),
  )
  return config | dict(label_names=list(classes))


def transformers_can(spec: Spec, classes: Sequence[str]) -> bool:
  """Returns whether transformers builds a model that computes the same; its CLIP classifier does not."""
  k = keywords_of(spec)
  if name_of(spec).startswith("clip") and classes:
    return False
  return k.get("pooling", "token") != "mean" and k.get("head", "linear") == "linear"


def transformers_config(spec: Spec, classes: Sequence[str]) -> dict[str, Any]:
  """Returns the `config.json` of transformers: ViT, DeiT with its teacher, or one tower of CLIP."""
  name, k = name_of(spec), keywords_of(spec)
  config: dict[str, Any] = dict(
    hidden_size=k["width"],
    intermediate_size=4 * k["width"],
    num_hidden_layers=k["depth"],
    num_attention_heads=k["num_heads"],
    hidden_act=TRANSFORMERS_ACTIVATIONS[k["activation"]],
    layer_norm_eps=k["norm_epsilon"],
    dtype="float32",
  )
  if name.startswith("clip_text"):
    return config | dict(
      architectures=["CLIPTextModelWithProjection"],
      model_type="clip_text_model",
      projection_dim=k["embed_dim"],
      vocab_size=k["vocabulary"],
      max_position_embeddings=k["context"],
      bos_token_id=k["vocabulary"] - 2,
      eos_token_id=k["vocabulary"] - 1,
    )
  config |= dict(image_size=k["image_size"], patch_size=k["patch_size"], num_channels=3)
  if name.startswith("clip"):
    tower = dict(architectures=["CLIPVisionModelWithProjection"], model_type="clip_vision_model")
    return config | tower | dict(projection_dim=k["embed_dim"])
  two = k["pooling"] == "distilled"
  config |= dict(
    architectures=["DeiTForImageClassificationWithTeacher" if two else "ViTForImageClassification"],
    model_type="deit" if two else "vit",
    id2label={str(i): label for i, label in enumerate(classes)},
    label2id={label: i for i, label in enumerate(classes)},
  )
  return config


def preprocessor_config(preprocessing: Preprocessing, name: str) -> dict[str, Any]:
  """Returns the `preprocessor_config.json` of transformers."""
  kind = "CLIPImageProcessor" if name.startswith("clip") else "ViTImageProcessor"
  config: dict[str, Any] = dict(
    image_processor_type=kind,
    do_resize=True,
    do_rescale=True,
    rescale_factor=1 / 255,
    do_normalize=True,
    resample=_PIL[preprocessing.interpolation],
    image_mean=list(preprocessing.mean),
    image_std=list(preprocessing.std),
  )
  side = dict(height=preprocessing.size, width=preprocessing.size)
  if isinstance(preprocessing.resize_to, int):
    # Only CLIP's and DeiT's processors crop.
    config["image_processor_type"] = kind if name.startswith("clip") else "DeiTImageProcessor"
    return config | dict(
      size=dict(shortest_edge=preprocessing.resize_to), do_center_crop=True, crop_size=side
    )
  return config | dict(size=side, do_center_crop=False)


def _own_shape(spec: Spec) -> dict[str, Any]:
  """Returns the default values of the size keywords of the model's function."""
  defaults = _defaults(spec)
  return {key: defaults[key] for key in _SHAPE if key in defaults}


def _defaults(spec: Spec) -> dict[str, Any]:
  return keywords_of(Spec(spec.path, spec.kind, {}, spec.target))


def _same(spec: Spec, library: str, **expected: Any) -> None:
  """Raises InputError if one of these keywords of the model differs from the library's value."""
  k = keywords_of(spec)
  for key, value in expected.items():
    if key in k and k[key] != value:
      theirs = f"{library}'s {name_of(spec)} has {key}={value!r}"
      raise InputError(f"{theirs}, and this weight {k[key]!r}; export it as safetensors")
