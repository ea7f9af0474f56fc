"""Zero-shot classification: a classifier that CLIP's text tower makes from class names.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021,
arXiv 2103.00020. Patching keeps such a head frozen: Ilharco et al., "Patching open-vocabulary models by
interpolating weights", 2022, arXiv 2208.05592.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxtl.errors import ConfigError
from jaxtl.models import layers
from jaxtl.types import Array, Model, Params
from jaxtl.zero_shot.prompts import Prompts
from jaxtl.zero_shot.tokenizer import Tokenizer


def zero_shot_head(
  text: Model,
  params: Params,
  names: Sequence[str],
  prompts: Prompts,
  *,
  tokenizer: Tokenizer,
  batch_size: int = 256,
) -> dict[str, np.ndarray]:
  """Makes the parameters of a "scaled_cosine" head with the logits of zero-shot classification.

  Class k is the direction u_k: the embedding of each template's text is scaled to length 1, and u_k is their
  mean, scaled to length 1 again. The logits are exp(log_scale) * cosine(image, u_k): the rows
  exp(log_scale) * u_k are the weights of a linear classifier of normalised images. The tower runs in
  evaluation mode, in the type of `text`.

  Args:
    text, params: a text tower, as `models.clip_text_b` makes it.
    names: K class names.
    prompts: the templates for the names.
    tokenizer: of the vocabulary that the tower was trained with.
    batch_size: texts at a time, or all templates of one class if these are more.

  Returns:
    {"kernel": float32 [D, K], columns of length 1; "log_scale": float32 [], the tower's own}.

  Raises:
    ConfigError: there are no names, or the tower has another vocabulary than the tokenizer.
  """
  if not names:
    raise ConfigError("there are no class names; give at least one")
  check_vocabulary(params, tokenizer)
  context = params["embed"]["positions"].shape[1]
  ids = tokenizer([one for name in names for one in prompts.texts(name)], context=context)
  # No token attends to later ones, so the zeros after the longest text would only cost time.
  longest = int(np.argmax(ids == tokenizer.end, axis=1).max()) + 1
  by_class = ids[:, :longest].reshape(len(names), len(prompts.templates), longest)
  directions = jax.jit(functools.partial(_directions, text.apply))
  count = min(max(batch_size // len(prompts.templates), 1), len(names))
  rows = [np.asarray(directions(params, part))[:kept] for part, kept in _parts(by_class, count)]
  log_scale = np.asarray(params["projection"]["log_scale"], np.float32)
  return {"kernel": np.concatenate(rows).T.copy(), "log_scale": log_scale}


def check_vocabulary(params: Params, tokenizer: Tokenizer) -> None:
  """Raises ConfigError if a text tower's parameters are for another vocabulary than the tokenizer's."""
  vocabulary = params["embed"]["tokens"].shape[0]
  if tokenizer.size != vocabulary:
    raise ConfigError(
      f"{tokenizer.path} has {tokenizer.size} tokens, and the text tower is for {vocabulary}; give the "
      "vocabulary that it was trained with"
    )


def _directions(apply: Callable[..., tuple[dict[str, Array], Params]], params: Params, ids: Array) -> Array:
  """Maps token ids [K, T, L] of T texts for each class to directions [K, D] of length 1."""
  features, _ = apply(params, {}, ids.reshape(-1, ids.shape[-1]))
  each = layers.unit(features["pooled"], axis=-1).reshape(*ids.shape[:2], -1)
  return layers.unit(jnp.mean(each, axis=1), axis=-1)


def _parts(ids: np.ndarray, count: int) -> list[tuple[np.ndarray, int]]:
  """Splits into parts of `count` classes, the last padded with zeros, and their numbers of real classes."""
  parts = [ids[start : start + count] for start in range(0, len(ids), count)]
  spare = count - len(parts[-1])
  kept = [len(part) for part in parts]
  parts[-1] = np.concatenate([parts[-1], np.zeros((spare, *ids.shape[1:]), ids.dtype)])
  return list(zip(parts, kept))
