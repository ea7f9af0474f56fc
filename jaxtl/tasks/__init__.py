"""What is predicted and how it is scored."""

from jaxtl.tasks.classify import Task, classification
from jaxtl.tasks.prompting import Prompts, prompt_sets, read_prompts
from jaxtl.tasks.tokens import Tokenizer, tokenizer
from jaxtl.tasks.zero_shot import check_vocabulary, zero_shot_head

__all__ = [
  "Prompts",
  "Task",
  "Tokenizer",
  "check_vocabulary",
  "classification",
  "prompt_sets",
  "read_prompts",
  "tokenizer",
  "zero_shot_head",
]
