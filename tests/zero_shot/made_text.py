"""A small made vocabulary in the form of CLIP's, and prompts for two classes."""

import json

# Merges as a training of byte pairs would list them: later ones are made of earlier ones.
MERGES = (
  *("a t</w>", "c at</w>", "d o", "do g</w>", "p h", "ph o", "pho t", "phot o</w>", "t h", "th e</w>"),
  *("o f</w>", "b l", "bl u", "blu r", "blur r", "blurr y</w>", "' s</w>", "c a", "o p", "! !"),
)
SIZE = 2 * 256 + len(MERGES) + 2
START, END = SIZE - 2, SIZE - 1


def save_vocabulary(path):
  """Writes the merges below the line that names their version; returns the path as text."""
  path.write_text("\n".join(["#version: 0.2", *MERGES, ""]), encoding="utf-8")
  return str(path)


def save_prompts(path, **fields):
  """Writes a JSON file of prompts; returns the path as text."""
  given = dict(templates=["a photo of a {}.", "the {}"], classes=["cat", "hot dog"])
  path.write_text(json.dumps({key: value for key, value in (given | fields).items() if value is not None}))
  return str(path)
