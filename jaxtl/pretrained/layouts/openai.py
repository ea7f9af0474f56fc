"""The layout of OpenAI's CLIP files, shared by open_clip, with both towers in one file.

Ilharco et al., "OpenCLIP", 2021, doi 10.5281/zenodo.5143773.
"""

from __future__ import annotations

from typing import Any

from jaxtl.data import Preprocessing
from jaxtl.pretrained.layouts.layout import Layout, Names
from jaxtl.pretrained.layouts.rules import LINEAR, SAME, leading

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_PARTS = {
  "norm1": "ln_1",
  "norm2": "ln_2",
  "attn/proj": "attn.out_proj",
  "mlp/fc1": "mlp.c_fc",
  "mlp/fc2": "mlp.c_proj",
}


def _tower(blocks: str, tensors: Any, modules: Any, others: str) -> Names:
  return Names(
    others=others,
    tensors=(
      *tensors,
      (r"block(\d+)/attn/qkv/kernel", lambda b: f"{blocks}.{b - 1}.attn.in_proj_weight", LINEAR),
      (r"block(\d+)/attn/qkv/bias", lambda b: f"{blocks}.{b - 1}.attn.in_proj_bias", SAME),
    ),
    modules=(*modules, (r"block(\d+)/(.+)", lambda b, part: f"{blocks}.{b - 1}.{_PARTS[part]}")),
  )


IMAGE = _tower(
  "visual.transformer.resblocks",
  tensors=(
    (r"embed/class_token", lambda: "visual.class_embedding", leading(2)),
    (r"embed/positions", lambda: "visual.positional_embedding", leading(1)),
    (r"projection/kernel", lambda: "visual.proj", SAME),
  ),
  modules=(
    (r"embed/proj", lambda: "visual.conv1"),
    (r"embed/norm", lambda: "visual.ln_pre"),
    (r"norm", lambda: "visual.ln_post"),
    (r"head", lambda: "classifier"),
  ),
  others=r"token_embedding.*|positional_embedding|transformer\..*|ln_final.*|text_projection|logit_scale",
)
TEXT = _tower(
  "transformer.resblocks",
  tensors=(
    (r"embed/tokens", lambda: "token_embedding.weight", SAME),
    (r"embed/positions", lambda: "positional_embedding", leading(1)),
    (r"projection/kernel", lambda: "text_projection", SAME),
    (r"projection/log_scale", lambda: "logit_scale", SAME),
  ),
  modules=((r"norm", lambda: "ln_final"),),
  others=r"visual\..*",
)
_FAMILIES = ((r"clip_vit_.*", lambda *_: IMAGE), (r"clip_text_.*", lambda *_: TEXT))


def preprocessing(model: str) -> Preprocessing:
  """Returns bicubic resizing of the whole shorter side to 224, with the statistics of CLIP's own data."""
  return Preprocessing(crop_fraction=1.0, interpolation="bicubic", mean=CLIP_MEAN, std=CLIP_STD)


OPENAI = Layout(
  name="openai",
  families=_FAMILIES,
  preprocessing=preprocessing,
  ignored="input_resolution|context_length|vocab_size|attn_mask",
  library="open_clip",
)
# Most of open_clip's own weights use the exact GELU; those with "quickgelu" in the name need the keyword.
OPEN_CLIP = Layout(
  name="open_clip",
  families=_FAMILIES,
  preprocessing=preprocessing,
  keywords=lambda _: dict(activation="gelu"),
  ignored="attn_mask",
  library="open_clip",
)
