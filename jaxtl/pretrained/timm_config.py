"""timm's `config.json`: the numerics, the classes and the preprocessing of a weight."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jaxtl.data import Preprocessing
from jaxtl.errors import InputError
from jaxtl.pretrained.side_files import Facts, abridged, activation, channels, check_keys, interpolation, side

FILE = "config.json"
# Keys without effect on the outputs at the size of the images, or visible in the shapes of the tensors.
_SILENT = {
  *("architecture", "num_classes", "num_features", "global_pool", "model_args", "pretrained_cfg"),
  *("label_names", "label_descriptions", "labels", "label_offset", "model_name", "tag", "cfg"),
  *("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load", "library_name"),
  *("test_input_size", "min_input_size", "fixed_input_size", "test_crop_pct", "pool_size", "test_pool_size"),
  *("first_conv", "classifier", "license", "description", "origin_url", "paper_name", "paper_ids", "notes"),
  *("input_size", "crop_pct", "interpolation", "mean", "std"),
}
_CROPS: dict[str, tuple[Any, ...]] = {"crop_mode": ("center", "squash")}
_NOISE = {
  *("drop_rate", "drop_path_rate", "drop_block_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate"),
  *("attn_drop_rate", "num_classes", "weight_init", "fix_init", "zero_init_last", "bn_momentum"),
}
_SIZES = dict(img_size="image_size", patch_size="patch_size")
_COUNTS = dict(embed_dim="width", depth="depth", num_heads="num_heads")
_VIT_KNOWN = {
  *_SIZES,
  *_COUNTS,
  *_NOISE,
  "act_layer",
  "dynamic_img_size",
  "dynamic_img_pad",
  "strict_img_size",
}
_VIT_ONLY: dict[str, tuple[Any, ...]] = dict(
  in_chans=(3,),
  mlp_ratio=(4, 4.0),
  qkv_bias=(True,),
  proj_bias=(True,),
  qk_norm=(False,),
  pre_norm=(False,),
  final_norm=(True,),
  no_embed_class=(False,),
  reg_tokens=(0,),
  pos_embed=("learn",),
  scale_attn_norm=(False,),
  scale_mlp_norm=(False,),
)
_POOLS = {"class_token", "global_pool", "fc_norm"}
_CONVOLUTIONAL_ONLY: dict[str, tuple[Any, ...]] = dict(in_chans=(3,), global_pool=("avg", "fast"))
# jaxtl's name -> timm's names of networks that compute the same with the same tensors. Other networks share
# the tensors but not the function: resnetblur50 and resnetaa50 have the tensors of resnet50.
_ARCHITECTURES = (
  (r"resnet(\d+)", r"(tv_|gluon_|ssl_|swsl_)?resnet{0}(_v1b)?"),
  (r"densenet(\d+)", r"(tv_)?densenet{0}"),
  (r"efficientnet_(\w+)", r"(tf_)?efficientnet_{0}(a|_ap|_ns|_ns_475)?"),
  (r"mobilenet_v2", r"mobilenetv2_\d+"),
  (r"vit_\w+", r"(vit|deit)_[a-z]+(_distilled)?_patch\d+(_gap)?_\d+(_in21k|_dino|_mae|_sam|_augreg)*"),
)


def read(config: dict[str, Any], model: str) -> Facts:
  """Reads the facts in the file.

  Raises:
    InputError: the file describes another network, or contains something without a counterpart in jaxtl.
  """
  cfg = config.get("pretrained_cfg")
  check_keys(config, at=FILE, known=_SILENT, only=_CROPS)
  check_keys(cfg or {}, at=f"pretrained_cfg of {FILE}", known=_SILENT, only=_CROPS)
  whole = {**config, **(cfg or {})}
  for key in ("architecture", "label_names", "label_descriptions"):  # the outer ones take precedence
    whole[key] = config.get(key) or whole.get(key)
  architecture = str(whole["architecture"] or "")
  _check_architecture(architecture.partition(".")[0], model)
  given = config.get("model_args") or {}
  if model.startswith("vit"):
    keywords = _vit(architecture, given, whole.get("global_pool"))
  else:
    keywords = _convolutional(architecture, given, model)
    check_keys({"global_pool": whole.get("global_pool")}, at=FILE, only=_CONVOLUTIONAL_ONLY)
  preprocessing, assumed = _preprocessing(whole)
  tag = f"{architecture} {whole.get('tag') or ''}"
  return Facts(keywords, _classes(whole), preprocessing, assumed, tag.strip())


def _check_architecture(architecture: str, model: str) -> None:
  for ours, theirs in _ARCHITECTURES:
    groups = re.fullmatch(ours, model)
    if architecture and groups and not re.fullmatch(theirs.format(*groups.groups()), architecture):
      raise InputError(f"{FILE} has architecture={abridged(architecture)}, which is not known to be {model}")


def _vit(architecture: str, given: Mapping[str, Any], pool: Any) -> dict[str, Any]:
  at = f"model_args of {FILE}"
  check_keys(given, at=at, known=_VIT_KNOWN | _POOLS, only=_VIT_ONLY)
  keywords: dict[str, Any] = {}
  for theirs, ours in _SIZES.items():
    if given.get(theirs) is not None:
      keywords[ours] = side(given[theirs], at=f"{theirs} in {at}")
  keywords |= {ours: given[theirs] for theirs, ours in _COUNTS.items() if given.get(theirs) is not None}
  if given.get("act_layer") is not None:
    keywords["activation"] = activation(given["act_layer"], at="act_layer")
  pooling = _pooling(architecture, given, pool)
  return keywords | ({} if pooling is None else {"pooling": pooling})


def _pooling(architecture: str, given: Mapping[str, Any], pool: Any) -> str | None:
  """Returns jaxtl's pooling, or None for the default, the class token.

  Two of timm's variants have no counterpart in jaxtl and are refused: a mean over the patches of a network
  with a class token, and a mean that is normalised after the pooling.
  """
  pool = pool if given.get("global_pool") is None else given["global_pool"]
  token, behind = given.get("class_token"), given.get("fc_norm")
  token = "_gap_" not in architecture if token is None else token
  said = (
    ", ".join(f"{key}={given[key]!r}" for key in sorted(_POOLS) if key in given) or f"global_pool={pool!r}"
  )
  refusal = InputError(
    f"{FILE} has {said}; expected global_pool='token' with the class token, or global_pool='avg', "
    "class_token=False, fc_norm=False, which is what jaxtl computes"
  )
  if token is False and pool in (None, "avg") and behind in (None, False) and "distilled" not in architecture:
    return "mean"
  if token is not True or pool not in (None, "token") or behind not in (None, False):
    raise refusal
  return "distilled" if "distilled" in architecture else None


def _convolutional(architecture: str, given: Mapping[str, Any], model: str) -> dict[str, Any]:
  at = f"model_args of {FILE}"
  keywords: dict[str, Any] = {}
  if architecture.startswith("efficientnet"):  # not a `tf_` one: torch's padding and epsilon
    keywords = dict(padding="symmetric", bn_epsilon=1e-5)
  inverted = model.startswith(("efficientnet", "mobilenet"))
  known = _NOISE | ({"bn_eps", "pad_type"} if inverted else set())
  check_keys(given, at=at, known=known, only=_CONVOLUTIONAL_ONLY)
  if given.get("bn_eps") is not None and inverted:
    keywords["bn_epsilon"] = given["bn_eps"]
  if given.get("pad_type") is not None and inverted:
    check_keys({"pad_type": given["pad_type"]}, at=at, only={"pad_type": ("", "same")})
    keywords["padding"] = given["pad_type"] or "symmetric"
  return keywords


def _preprocessing(config: Mapping[str, Any]) -> tuple[Preprocessing | None, tuple[str, ...]]:
  """Returns (preprocessing, its assumed parts); timm's defaults replace missing values."""
  if config.get("input_size") is None:
    for key in ("mean", "std", "crop_pct", "interpolation"):
      if config.get(key) is not None:
        raise InputError(f"{FILE} has {key} and no input_size; write input_size like [3, 224, 224] into it")
    return None, ()
  count, *sides = config["input_size"]
  if count != 3:
    raise InputError(f"{FILE} has input_size={config['input_size']!r}; expected images of 3 channels")
  whole = config.get("crop_mode") == "squash"
  names = dict(crop_fraction="crop_pct", interpolation="interpolation", mean="mean", std="std")
  assumed = tuple(
    ours
    for ours, theirs in names.items()
    if config.get(theirs) is None and not (whole and theirs == "crop_pct")
  )
  made = Preprocessing(
    size=side(sides, at=f"input_size in {FILE}"),
    crop_fraction=None if whole else config.get("crop_pct") or 0.875,
    interpolation=interpolation(config.get("interpolation") or "bicubic"),
    mean=channels(config.get("mean") or Preprocessing.mean, at=f"mean in {FILE}"),
    std=channels(config.get("std") or Preprocessing.std, at=f"std in {FILE}"),
  )
  return made, assumed


def _classes(config: Mapping[str, Any]) -> tuple[str, ...] | None:
  order = config.get("label_names") or config.get("labels")
  described = config.get("label_descriptions")
  if isinstance(order, Mapping):  # output -> name
    numbers = sorted(order, key=int)
    if [int(n) for n in numbers] != list(range(len(numbers))):
      raise InputError(f"label_names of {FILE} leaves outputs out; give --classes FILE")
    order = [order[n] for n in numbers]
  if isinstance(described, Mapping) and order:
    order = [described[name] for name in order]
  elif described and not isinstance(described, Mapping):
    order = described
  return tuple(map(str, order)) if order else None
