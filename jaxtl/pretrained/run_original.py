"""A script that builds a model in the library of a layout, loads the weights, and runs the model.

python -P run_original.py JOB.json

It imports nothing from jaxtl, only torch and the requested library. The job has

  library     "torchvision", "timm", "transformers" or "open_clip"
  model       jaxtl's name of the model
  keywords    keywords of jaxtl's model, defaults included
  num_classes K
  weights     safetensors in the library's names
  inputs      npz with `images` [B, H, W, 3] float32, or `tokens` [B, T] int
  modules     {name: module whose output is returned}, optional
  gradients   keys for which the gradient of the mean cross-entropy with labels 0, 1, .. is returned, optional
  train       whether to run in training mode, without noise, and return the updated statistics, optional
  out         npz to write: `logits` (or the embedding), `module/NAME`, `gradient/KEY`, `after/KEY`
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def main(job_file: str) -> None:
  """Runs the job in a file and writes its outputs."""
  import torch
  from safetensors.torch import load_file

  job = json.loads(Path(job_file).read_text())
  model, forward = BUILDERS[job["library"]](job, load_file(job["weights"]))
  model.train(job.get("train", False))
  _without_noise(model)
  seen: dict[str, Any] = {}
  for name, path in job.get("modules", {}).items():
    model.get_submodule(path).register_forward_hook(_keeper(seen, f"module/{name}"))
  with np.load(job["inputs"]) as stored:
    inputs = {key: torch.from_numpy(stored[key]) for key in stored.files}
  images = inputs["images"].permute(0, 3, 1, 2).contiguous() if "images" in inputs else None
  out = forward(model, images if images is not None else inputs["tokens"].long())
  results = {"logits": out, **seen}
  if job.get("gradients"):
    labels = torch.arange(len(out)) % out.shape[1]
    torch.nn.functional.cross_entropy(out, labels).backward()
    results |= {f"gradient/{key}": model.get_parameter(key).grad for key in job["gradients"]}
  if job.get("train"):
    after = {key: value for key, value in model.state_dict().items() if "running_" in key}
    results |= {f"after/{key}": value for key, value in after.items()}
  np.savez(job["out"], **{key: value.detach().numpy() for key, value in results.items()})


def _keeper(seen: dict[str, Any], name: str) -> Any:
  def keep(module: Any, inputs: Any, output: Any) -> None:
    seen[name] = output[0] if isinstance(output, tuple) else output

  return keep


def _without_noise(model: Any) -> None:
  """Sets the rates of dropout and stochastic depth, recognised by the names of their classes, to 0."""
  for module in model.modules():
    if "drop" in type(module).__name__.lower() or "stochastic" in type(module).__name__.lower():
      for rate in ("p", "drop_prob"):
        if hasattr(module, rate):
          setattr(module, rate, 0.0)


def _plain(model: Any, inputs: Any) -> Any:
  return model(inputs)


def _torchvision(job: dict[str, Any], weights: dict[str, Any]) -> Any:
  import torchvision

  name, k, classes = job["model"], job["keywords"], job["num_classes"]
  if name.startswith("vit"):
    model: Any = torchvision.models.VisionTransformer(
      image_size=k["image_size"],
      patch_size=k["patch_size"],
      num_layers=k["depth"],
      num_heads=k["num_heads"],
      hidden_dim=k["width"],
      mlp_dim=4 * k["width"],
      num_classes=classes,
    )
  else:
    model = getattr(torchvision.models, name)(num_classes=classes)
  model.load_state_dict(weights, strict=False)
  _complete(model, weights)
  return model, _plain


def _timm(job: dict[str, Any], weights: dict[str, Any]) -> Any:
  import timm

  name, k, classes = job["model"], job["keywords"], job["num_classes"]
  if name.startswith("vit"):
    sizes = dict(
      img_size=k["image_size"],
      patch_size=k["patch_size"],
      embed_dim=k["width"],
      depth=k["depth"],
      num_heads=k["num_heads"],
      num_classes=classes,
    )
    if k["pooling"] == "distilled":
      model: Any = timm.models.deit.VisionTransformerDistilled(**sizes)
    elif k["pooling"] == "mean":
      model = timm.models.VisionTransformer(**sizes, global_pool="avg", class_token=False, fc_norm=False)
    else:
      model = timm.models.VisionTransformer(**sizes)
  else:
    theirs = {"mobilenet_v2": "mobilenetv2_100"}.get(name, name)
    if name.startswith("efficientnet") and k["padding"] == "same":
      theirs = f"tf_{name}"
    model = timm.create_model(theirs, num_classes=classes)
  model.load_state_dict(weights, strict=False)
  _complete(model, weights)
  return model, _timm_forward


def _timm_forward(model: Any, images: Any) -> Any:
  """Returns the logits; in training, averages those of a distilled model's two classifiers."""
  out = model(images)
  return (out[0] + out[1]) / 2 if isinstance(out, tuple) else out


_ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_tanh": "gelu_pytorch_tanh"}


def _transformers(job: dict[str, Any], weights: dict[str, Any]) -> Any:
  """Loads the weights through a folder on disk, since the names in memory differ from those in files."""
  import transformers
  from safetensors.torch import save_file

  name, k = job["model"], job["keywords"]
  shared = dict(
    hidden_size=k["width"],
    intermediate_size=4 * k["width"],
    num_hidden_layers=k["depth"],
    num_attention_heads=k["num_heads"],
    hidden_act=_ACTIVATIONS[k["activation"]],
    layer_norm_eps=k["norm_epsilon"],
  )
  if name.startswith("clip_text"):
    cls, config = transformers.CLIPTextModelWithProjection, transformers.CLIPTextConfig
    shared |= dict(
      projection_dim=k["embed_dim"], vocab_size=k["vocabulary"], max_position_embeddings=k["context"]
    )
    shared |= dict(eos_token_id=k["vocabulary"] - 1)
    shared |= dict(bos_token_id=k["vocabulary"] - 2)
    weights = {key: value for key, value in weights.items() if key != "logit_scale"}
  elif name.startswith("clip"):
    cls, config = transformers.CLIPVisionModelWithProjection, transformers.CLIPVisionConfig
    shared |= dict(projection_dim=k["embed_dim"], image_size=k["image_size"], patch_size=k["patch_size"])
  else:
    two = k["pooling"] == "distilled"
    cls = (
      transformers.DeiTForImageClassificationWithTeacher if two else transformers.ViTForImageClassification
    )
    config = transformers.DeiTConfig if two else transformers.ViTConfig
    shared |= dict(image_size=k["image_size"], patch_size=k["patch_size"], num_labels=job["num_classes"])
  with tempfile.TemporaryDirectory() as folder:
    cls(config(**shared)).config.save_pretrained(folder)
    save_file(weights, f"{folder}/model.safetensors", metadata={"format": "pt"})
    model, info = cls.from_pretrained(folder, output_loading_info=True)
  if info["missing_keys"] or info["unexpected_keys"]:
    raise SystemExit(
      f"transformers reports missing {info['missing_keys']}, unexpected {info['unexpected_keys']}"
    )
  return model, _transformers_forward


def _transformers_forward(model: Any, inputs: Any) -> Any:
  out = model(inputs)
  for name in ("logits", "image_embeds", "text_embeds"):
    if getattr(out, name, None) is not None:
      return getattr(out, name)
  raise SystemExit(f"transformers gave {type(out).__name__}")


def _open_clip(job: dict[str, Any], weights: dict[str, Any]) -> Any:
  from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

  name, k = job["model"], job["keywords"]
  text = name.startswith("clip_text")
  sizes = dict(layers=k["depth"], width=k["width"])
  small: dict[str, Any] = dict(layers=1, width=64)  # the tower that is not requested
  vision_cfg = dict(sizes, head_width=k["width"] // k["num_heads"]) if not text else small
  if not text:
    vision_cfg |= dict(patch_size=k["patch_size"], image_size=k["image_size"])
  text_cfg = small
  if text:
    text_cfg = dict(sizes, heads=k["num_heads"], vocab_size=k["vocabulary"], context_length=k["context"])
  model = CLIP(
    k["embed_dim"],
    CLIPVisionCfg(**vision_cfg),
    CLIPTextCfg(**text_cfg),
    quick_gelu=k["activation"] == "quick_gelu",
  )
  missing = model.load_state_dict(weights, strict=False).missing_keys
  lacks = [key for key in missing if key.startswith("visual.") != text and key != "logit_scale"]
  if lacks:
    raise SystemExit(f"open_clip reports missing {lacks[0]}")
  return model, lambda model, x: model.encode_text(x) if text else model.encode_image(x)


def _complete(model: Any, weights: dict[str, Any]) -> None:
  """Ends the script unless the weights match the model's tensors exactly, except for batch counters."""
  theirs = {key for key in model.state_dict() if not key.endswith("num_batches_tracked")}
  given = {key for key in weights if not key.endswith("num_batches_tracked")}
  if theirs != given:
    raise SystemExit(f"the original differs in {sorted(theirs ^ given)[0]}")


BUILDERS = {
  "torchvision": _torchvision,
  "timm": _timm,
  "transformers": _transformers,
  "open_clip": _open_clip,
}

if __name__ == "__main__":
  main(sys.argv[1])
