"""Hugging Face's `config.json` and processor file, interpreted as by transformers."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtl.data import Preprocessing
from jaxtl.errors import InputError
from jaxtl.pretrained.layouts.openai import CLIP_MEAN, CLIP_STD
from jaxtl.pretrained.layouts.timm import HALF
from jaxtl.pretrained.side_files import (
  Facts,
  activation,
  channels,
  check_keys,
  interpolation,
  read_json,
  side,
)

FILE = "config.json"
# Keys that the shapes of the tensors show, or that have no effect on the outputs.
_SILENT = {
  *("architectures", "model_type", "transformers_version", "torch_dtype", "dtype", "_name_or_path"),
  *("name_or_path", "_commit_hash", "id2label", "label2id", "num_labels", "problem_type", "finetuning_task"),
  *(
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "patch_size",
    "image_size",
  ),
  *("hidden_act", "layer_norm_eps", "projection_dim", "vocab_size", "max_position_embeddings"),
  *("text_config", "vision_config", "text_config_dict", "vision_config_dict", "logit_scale_init_value"),
  *("initializer_range", "initializer_factor", "hidden_dropout_prob", "attention_probs_dropout_prob"),
  *(
    "attention_dropout",
    "dropout",
    "classifier_dropout",
    "encoder_stride",
    "pooler_output_size",
    "pooler_act",
  ),
  *("use_mask_token", "mask_ratio", "norm_pix_loss", "decoder_hidden_size", "decoder_intermediate_size"),
  *("decoder_num_attention_heads", "decoder_num_hidden_layers", "gradient_checkpointing"),
  *(
    "_attn_implementation",
    "attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
  ),
  *("chunk_size_feed_forward", "output_attentions", "output_hidden_states", "return_dict", "use_return_dict"),
  *(
    "padding",
    "use_cache",
    "torchscript",
    "use_bfloat16",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_word_embeddings",
  ),
  *("cross_attention_hidden_size", "tokenizer_class", "prefix", "task_specific_params"),
  *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
  # Text generation settings, which every old config contains.
  *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "temperature"),
  *("diversity_penalty", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty"),
  *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences"),
  *("output_scores", "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id"),
  *("remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens"),
}
_ONLY: dict[str, tuple[Any, ...]] = dict(
  num_channels=(3,),
  qkv_bias=(True,),
  pruned_heads=({},),
  is_decoder=(False,),
  is_encoder_decoder=(False,),
  add_cross_attention=(False,),
)
_TYPES = {
  "vit": ("vit", "deit", "vit_mae"),
  "clip_vit": ("clip", "clip_vision_model"),
  "clip_text": ("clip", "clip_text_model"),
}
# transformers' default number of heads, if a config does not specify it.
_HEADS = {"vit": 12, "clip_vit": 12, "clip_text": 8}


def read(folder: Path, model: str) -> Facts:
  """Reads the facts in the config files of `folder`.

  Raises:
    InputError: the files describe another network, or contain something without a counterpart in jaxtl.
  """
  config = read_json(folder / FILE)
  kind = next(kind for kind in ("clip_text", "clip_vit", "vit") if model.startswith(kind))
  check_keys(config, at=FILE, known=_SILENT, only=_ONLY)
  check_keys({"model_type": config.get("model_type")}, at=FILE, only={"model_type": _TYPES[kind]})
  part = _part(config, kind)
  keywords: dict[str, Any] = {}
  if part.get("layer_norm_eps") is not None:
    keywords["norm_epsilon"] = part["layer_norm_eps"]
  if part.get("num_attention_heads") is not None:  # not visible in any shape
    keywords["num_heads"] = part["num_attention_heads"]
  elif "model_type" in config or part is not config:
    keywords["num_heads"] = _HEADS[kind]
  if part.get("hidden_act") is not None:
    keywords["activation"] = activation(part["hidden_act"], at="hidden_act")
  if config.get("model_type") == "deit":
    keywords["pooling"] = "distilled"
  if kind == "clip_text":
    _check_end(part)
  facts = Facts(keywords, _classes(config), family=_family(config))
  image_size = None if isinstance(part.get("image_size"), bool) else part.get("image_size")
  return facts if kind == "clip_text" else _with_processor(facts, folder, config, image_size)


def _part(config: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
  """Returns the tower's part of a config for both towers; old files store overrides in a second mapping."""
  name = {"clip_text": "text_config", "clip_vit": "vision_config"}.get(kind, "")
  parts = [config[key] for key in (name, f"{name}_dict") if config.get(key) is not None]
  for key, inside in zip((name, f"{name}_dict"), parts):
    check_keys(inside, at=f"{key} of {FILE}", known=_SILENT, only=_ONLY)
  return {key: value for inside in parts for key, value in inside.items()} if parts else config


def _check_end(part: Mapping[str, Any]) -> None:
  """Refuses an end token that does not have the largest id, since the text tower pools that token.

  The id 2 is accepted, because transformers also interprets it as the largest id.
  """
  end, vocabulary = part.get("eos_token_id"), part.get("vocab_size", 49408)
  if end is not None and end not in (2, vocabulary - 1):
    raise InputError(
      f"{FILE} has eos_token_id={end!r}; expected {vocabulary - 1}, the last of the vocabulary, since the "
      "text is pooled at the largest id"
    )


def _classes(config: Mapping[str, Any]) -> tuple[str, ...] | None:
  names = config.get("id2label")
  if not names or all(str(name).startswith("LABEL_") for name in names.values()):
    return None
  numbers = sorted(names, key=int)
  if [int(n) for n in numbers] != list(range(len(numbers))):
    raise InputError(f"id2label of {FILE} leaves outputs out; give --classes FILE")
  return tuple(str(names[n]) for n in numbers)


def _family(config: Mapping[str, Any]) -> str:
  kind = {"deit": "deit", "vit_mae": "mae"}.get(str(config.get("model_type")), "")
  return f"{kind} {config.get('_name_or_path') or ''}".strip()


@dataclasses.dataclass(frozen=True)
class _Defaults:
  """The defaults of a class of image processors for keys missing in its file.

  Attributes:
    square: whether a single number as size sets both sides; otherwise it sets the shorter one.
  """

  size: Any
  resample: int
  do_center_crop: bool
  mean: tuple[float, ...] = HALF
  std: tuple[float, ...] = HALF
  square: bool = True


_PROCESSORS = {
  "ViT": _Defaults({"height": 224, "width": 224}, 2, False),
  "DeiT": _Defaults({"height": 256, "width": 256}, 3, True),
  "CLIP": _Defaults({"shortest_edge": 224}, 3, True, CLIP_MEAN, CLIP_STD, square=False),
}
_BY_MODEL = {"vit": "ViT", "vit_mae": "ViT", "deit": "DeiT", "clip": "CLIP", "clip_vision_model": "CLIP"}
_PROCESSOR_SILENT = {
  *("image_processor_type", "feature_extractor_type", "image_processor_class", "processor_class"),
  *(
    "_processor_class",
    "_valid_processor_keys",
    "return_tensors",
    "data_format",
    "input_data_format",
    "device",
  ),
  *("disable_grouping", "default_to_square", "image_seq_length", "do_convert_rgb", "do_reduce_labels"),
  *("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale", "rescale_factor"),
  *("do_normalize", "image_mean", "image_std", "num_channels"),
}


def _with_processor(facts: Facts, folder: Path, config: Mapping[str, Any], image_size: Any) -> Facts:
  name, processor = _processor_file(folder)
  if not processor:
    return facts
  off = {key for key, value in processor.items() if key.startswith("do_") and value is False}
  check_keys(processor, at=name, known=_PROCESSOR_SILENT | off)
  kind = processor.get("image_processor_type") or processor.get("feature_extractor_type") or ""
  known = re.match(r"(ViT|DeiT|CLIP)(?:ImageProcessor|FeatureExtractor)", str(kind))
  default = _PROCESSORS[known.group(1) if known else _BY_MODEL.get(str(config.get("model_type")), "ViT")]
  default = default if known or not kind else dataclasses.replace(default, do_center_crop=False)
  size, crop_fraction, notes = _geometry(processor, name, default, image_size)
  mean, std = _scale(processor, name, default)
  how = processor.get("resample")
  made = Preprocessing(
    size=size,
    crop_fraction=crop_fraction,
    interpolation=interpolation(default.resample if how is None else how),
    mean=mean,
    std=std,
  )
  certain = bool(known) or (not kind and config.get("model_type") in _BY_MODEL)
  keys = dict(interpolation="resample", mean="image_mean", std="image_std")
  absent = tuple(ours for ours, theirs in keys.items() if processor.get(theirs) is None)
  return dataclasses.replace(facts, preprocessing=made, assumed=() if certain else absent, notes=notes)


def _processor_file(folder: Path) -> tuple[str, Mapping[str, Any]]:
  """Returns (name, contents) of the image processor file.

  transformers 5 stores all processors of a model in one file.
  """
  joint, own = "processor_config.json", "preprocessor_config.json"
  nested = read_json(folder / joint)
  if nested.get("image_processor") is not None:
    return joint, dict(nested["image_processor"])
  found = read_json(folder / own)
  if not found and set(nested) & {
    "size",
    "crop_size",
    "image_mean",
    "do_normalize",
    "do_rescale",
    "do_resize",
  }:
    return joint, nested
  return own, found


def _geometry(
  processor: Mapping[str, Any], name: str, default: _Defaults, image_size: Any
) -> tuple[int, float | None, tuple[str, ...]]:
  """Returns (side of the images, crop fraction, notes)."""
  cropped = _flag(processor, "do_center_crop", default.do_center_crop, name)
  size = processor.get("size")
  if not _flag(processor, "do_resize", True, name):
    if cropped:
      raise InputError(f"{name} has do_resize=false and a crop; expected a resize before the crop")
    # The original accepts only images of the model's size, and does not resize them.
    size = image_size if image_size is not None else size
  size = default.size if size is None else size
  square = processor.get("default_to_square")
  square = default.square if square is None else square
  if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
    size, square = size["shortest_edge"], False
  elif isinstance(size, (Mapping, list)):
    square = True
  resized = side(size, at=f"size in {name}")
  if not cropped:
    return resized, None, ()
  crop = processor.get("crop_size")
  cut = side(224 if crop is None else crop, at=f"crop_size in {name}")
  if square and cut == resized:
    return cut, None, ()
  if cut > resized:
    raise InputError(f"{name} crops {cut} pixels of {resized}; expected a crop within the resized image")
  note = f"{name} resizes to {resized} x {resized} before the crop; here the shorter side becomes {resized}"
  return cut, cut / resized, (f"{note}, which differs for images that are not square",) if square else ()


def _scale(
  processor: Mapping[str, Any], name: str, default: _Defaults
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Converts the processor's rescaling and normalisation to (mean, std) for values from 0 to 1."""
  mean = std = None
  if _flag(processor, "do_normalize", True, name):
    mean, std = processor.get("image_mean"), processor.get("image_std")
    mean = channels(default.mean if mean is None else mean, at=f"image_mean in {name}")
    std = channels(default.std if std is None else std, at=f"image_std in {name}")
  mean, std = mean or (0.0,) * 3, std or (1.0,) * 3
  factor = processor.get("rescale_factor")
  factor = 1 / 255 if factor is None else factor
  factor = factor if _flag(processor, "do_rescale", True, name) else 1
  if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < math.inf:
    raise InputError(f"{name} has rescale_factor={factor!r}; expected a positive number (for example 1/255)")
  if abs(255 * factor - 1) < 1e-6:
    return mean, std
  return tuple(x / (255 * factor) for x in mean), tuple(x / (255 * factor) for x in std)


def _flag(processor: Mapping[str, Any], key: str, default: bool, name: str) -> bool:
  value = processor.get(key)
  if value is not None and not isinstance(value, bool):
    raise InputError(f"{name} has {key}={value!r}; expected true or false")
  return default if value is None else value
