"""Zero-shot classification: prompts, tokens, and heads made of embedded text."""

from jaxtl.zero_shot.from_files import ZeroShot, check_width, with_head, zero_shot
from jaxtl.zero_shot.head import check_vocabulary, zero_shot_head
from jaxtl.zero_shot.prompts import Prompts, prompt_sets, read_prompts
from jaxtl.zero_shot.tokenizer import Tokenizer, tokenizer

__all__ = [
  "Prompts",
  "Tokenizer",
  "ZeroShot",
  "check_vocabulary",
  "check_width",
  "prompt_sets",
  "read_prompts",
  "tokenizer",
  "with_head",
  "zero_shot",
  "zero_shot_head",
]
