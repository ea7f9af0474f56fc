"""open_clip's `open_clip_config.json`: the numerics and the preprocessing of both towers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtl.data import Preprocessing
from jaxtl.errors import InputError
from jaxtl.pretrained.layouts.openai import preprocessing as clip_preprocessing
from jaxtl.pretrained.side_files import Facts, channels, check_keys, interpolation, side

FILE = "open_clip_config.json"
_MODEL_KNOWN = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale", "cast_dtype"}
# The construction of the text tower, and a temperature per dimension.
_MODEL_ONLY: dict[str, tuple[Any, ...]] = dict(custom_text=(False,), nonscalar_logit_scale=(False,))
# The shapes of the tensors show layers, widths and patches.
_VISION_KNOWN = {
  *("image_size", "layers", "width", "patch_size", "head_width", "patch_dropout"),
  # These take effect only together with `timm_model_name`, which is refused.
  *("timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias", "timm_drop", "timm_drop_path"),
}
_VISION_ONLY: dict[str, tuple[Any, ...]] = dict(
  mlp_ratio=(4, 4.0),
  attentional_pool=(False,),
  attn_pooler_heads=(8,),
  attn_pooler_queries=(256,),
  no_ln_pre=(False,),
  pos_embed_type=("learnable",),
  final_ln_after_pool=(False,),
  pool_type=("tok",),
  output_tokens=(False,),
  input_patchnorm=(False,),
  global_average_pool=(False,),
)
_TEXT_KNOWN = {
  *("context_length", "vocab_size", "width", "heads", "layers", "hf_tokenizer_name", "tokenizer_kwargs"),
  *("pad_id", "bos_id", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type"),
}
_TEXT_ONLY: dict[str, tuple[Any, ...]] = dict(
  mlp_ratio=(4, 4.0),
  pool_type=("argmax",),
  proj_type=("linear",),
  proj_bias=(False,),
  embed_cls=(False,),
  no_causal_mask=(False,),
  final_ln_after_pool=(False,),
  output_tokens=(False,),
)
_PREPARED = {"size", "mean", "std", "interpolation", "resize_mode", "fill_color"}


def read(config: dict[str, Any], model: str) -> Facts:
  """Reads the facts in the file.

  Raises:
    InputError: the file contains something without a counterpart in jaxtl.
  """
  whole, pre = config.get("model_cfg") or {}, config.get("preprocess_cfg") or {}
  check_keys(config, at=FILE, known={"model_cfg", "preprocess_cfg", "model_name", "license", "version"})
  image = set() if model.startswith("clip_text") else {*_MODEL_ONLY, "init_logit_bias", "multimodal_cfg"}
  check_keys(whole, at=f"model_cfg of {FILE}", known=_MODEL_KNOWN | image, only=_MODEL_ONLY)
  keywords: dict[str, Any] = {}
  if whole:
    keywords["activation"] = "quick_gelu" if whole.get("quick_gelu") else "gelu"
  vision, text = whole.get("vision_cfg") or {}, whole.get("text_cfg") or {}
  if model.startswith("clip_text"):
    keywords |= _tower(text, "text_cfg", _TEXT_KNOWN, _TEXT_ONLY)
    return Facts(keywords | ({"num_heads": text["heads"]} if text.get("heads") is not None else {}))
  keywords |= _tower(vision, "vision_cfg", _VISION_KNOWN, _VISION_ONLY)
  if vision.get("width") is not None:
    width, head = vision["width"], vision.get("head_width") or 64
    if width % head:
      raise InputError(f"vision_cfg of {FILE} has head_width={head}, which does not divide width={width}")
    keywords["num_heads"] = width // head
  preprocessing, assumed = _preprocessing(pre, vision)
  return Facts(keywords, None, preprocessing, assumed)


def _tower(
  part: Mapping[str, Any], name: str, known: set[str], only: dict[str, tuple[Any, ...]]
) -> dict[str, Any]:
  """Returns the epsilon of a tower's norms; refuses keys that are not understood."""
  at = f"{name} of {FILE}"
  check_keys(part, at=at, known=known | {"norm_kwargs", "act_kwargs"}, only=only)
  check_keys(part.get("act_kwargs") or {}, at=f"act_kwargs in {at}")
  norm = part.get("norm_kwargs") or {}
  check_keys(norm, at=f"norm_kwargs in {at}", known={"eps"})
  return {"norm_epsilon": norm["eps"]} if norm.get("eps") is not None else {}


def _preprocessing(
  pre: Mapping[str, Any], vision: Mapping[str, Any]
) -> tuple[Preprocessing | None, tuple[str, ...]]:
  at = f"preprocess_cfg of {FILE}"
  modes = dict(resize_mode=("shortest", "squash"), mode=("RGB",))
  check_keys(pre, at=at, known=_PREPARED - set(modes), only=modes)
  if not pre:
    return None, ()
  usual = clip_preprocessing("")
  size = pre.get("size")
  size = vision.get("image_size") if size is None else size
  assumed = tuple(key for key in ("interpolation", "mean", "std") if pre.get(key) is None)
  made = Preprocessing(
    size=side(usual.size if size is None else size, at=f"the size of the images in {FILE}"),
    crop_fraction=None if pre.get("resize_mode") == "squash" else 1.0,
    interpolation=interpolation(pre.get("interpolation") or usual.interpolation),
    mean=channels(pre.get("mean") or usual.mean, at=f"mean in {at}"),
    std=channels(pre.get("std") or usual.std, at=f"std in {at}"),
  )
  return made, assumed
