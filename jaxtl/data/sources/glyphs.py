"""Drawn characters: a data set of any size that needs no files except fonts."""

from __future__ import annotations

import functools
import string
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from jaxtl.data.sources.source import Source
from jaxtl.data.sources.storage import Deferred
from jaxtl.errors import DataError

if TYPE_CHECKING:
  from PIL import Image

CHARACTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_GLYPH_NAMES = dict(
  zip(
    string.digits,
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
    strict=True,
  )
)
_SPLITS = ("train", "test", "validation")
# Glyphs are drawn once at this size and then shrunk, so that edges are smooth.
_MASK = 96
_LUMA = np.array([0.299, 0.587, 0.114])


def glyphs(
  *,
  num_examples: int,
  split: str,
  seed: int = 0,
  size: int = 32,
  polarity: Literal["any", "light_on_dark"] = "any",
) -> Source:
  """Draws the 62 characters 0-9, A-Z, a-z in many fonts, colours, positions and backgrounds.

  The fonts are those shipped with matplotlib. Example i shows character i modulo 62, so the classes are
  balanced. Everything else about it is drawn from (seed, split, i) alone, so a longer source begins with the
  shorter one.

  Args:
    num_examples: number of examples.
    split: "train", "validation" or "test"; each has its own random draws.
    seed: seed of the draws.
    size: side of the images in pixels.
    polarity: "light_on_dark" keeps the character lighter than its background. A small network learns it
      many times sooner than "any", which requires recognising a shape with either sign of its contrast.

  Raises:
    DataError: the split or the polarity is unknown, or `num_examples` is below 1.
  """
  if split not in _SPLITS:
    raise DataError(f"glyphs has no split {split!r}; write one of {', '.join(_SPLITS)}")
  if num_examples < 1:
    raise DataError(f"glyphs num_examples is {num_examples}; expected at least 1")
  if polarity not in ("any", "light_on_dark"):
    raise DataError(f"glyphs has no polarity {polarity!r}; write 'any' or 'light_on_dark'")

  def draw() -> np.ndarray:
    stream = _SPLITS.index(split)
    images = [
      _draw(index % 62, np.random.default_rng([seed, stream, index]), size, polarity)
      for index in range(num_examples)
    ]
    return np.stack(images)

  return Source(
    name=f"glyphs/{split}",
    classes=tuple(CHARACTERS),
    labels=np.arange(num_examples) % 62,
    images=Deferred(draw, num_examples),
    kind="synthetic",
  )


@functools.cache
def fonts() -> tuple[Path, ...]:
  """Returns the fonts that draw all 62 characters as themselves, sorted by name.

  Some mathematical fonts map the codes of letters to other symbols, so the names of the glyphs are compared.
  """
  import matplotlib
  from matplotlib import ft2font

  expected = {character: _GLYPH_NAMES.get(character, character) for character in CHARACTERS}
  chosen = []
  for path in sorted((Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("*.ttf")):
    font = ft2font.FT2Font(str(path))
    codes = font.get_charmap()
    if all(ord(c) in codes and font.get_glyph_name(codes[ord(c)]) == name for c, name in expected.items()):
      chosen.append(path)
  return tuple(chosen)


@functools.cache
def _mask(label: int, font_number: int) -> Image.Image:
  """Draws the centred character in white on black."""
  from PIL import Image, ImageDraw, ImageFont

  path, text = str(fonts()[font_number]), CHARACTERS[label]
  # All characters of a font share one scale: an o must stay smaller than an O.
  font = ImageFont.truetype(path, round(_MASK * 0.8))
  left, top, right, bottom = font.getbbox(text)
  mask = Image.new("L", (_MASK, _MASK))
  place = ((_MASK - left - right) / 2, (_MASK - top - bottom) / 2)
  ImageDraw.Draw(mask).text(place, text, fill=255, font=font)
  return mask


def _draw(label: int, rng: np.random.Generator, size: int, polarity: str) -> np.ndarray:
  from PIL import Image

  mask = _mask(label, int(rng.integers(len(fonts()))))
  coefficients = _placement(rng, size)
  mask = mask.transform((2 * size, 2 * size), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
  cover = np.asarray(mask.reduce(2), np.float32)[..., None] / 255
  paper, ink = _colours(rng)
  if polarity == "light_on_dark" and (ink - paper) @ _LUMA < 0:
    paper, ink = ink, paper
  image = _background(rng, paper, size) * (1 - cover) + ink * cover
  image += rng.normal(0, rng.uniform(0, 8), image.shape)
  return np.clip(np.round(image), 0, 255).astype(np.uint8)


def _placement(rng: np.random.Generator, size: int) -> tuple[float, ...]:
  """Draws the coefficients of PIL's inverse affine map from a picture with the side 2 `size` to the mask."""
  angle = np.deg2rad(rng.uniform(-20, 20))
  shear = rng.uniform(-0.25, 0.25)
  scale = _MASK / (2 * size) / rng.uniform(0.75, 1.2)
  turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
  matrix = scale * turn @ np.array([[1, shear], [0, 1]])
  centre = np.array([size, size]) + rng.uniform(-0.1, 0.1, 2) * 2 * size
  offset = _MASK / 2 - matrix @ centre
  return (*matrix[0], offset[0], *matrix[1], offset[1])


def _colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
  """Draws two colours that differ by at least 90 in luma."""
  while True:
    paper, ink = rng.uniform(0, 255, (2, 3))
    if abs((paper - ink) @ _LUMA) >= 90:
      return paper, ink


def _background(rng: np.random.Generator, paper: np.ndarray, size: int) -> np.ndarray:
  """Draws a background [size, size, 3]: uniform, a gradient, noise or stripes, within 35 of `paper`."""
  rows, columns = np.mgrid[0:size, 0:size] / size
  angle = rng.uniform(0, 2 * np.pi)
  along = np.cos(angle) * rows + np.sin(angle) * columns
  kind = rng.integers(4)
  if kind == 0:
    pattern = np.zeros((size, size))
  elif kind == 1:
    pattern = along - along.mean()
  elif kind == 2:
    pattern = rng.uniform(-1, 1, (size, size))
  else:
    pattern = np.sign(np.sin(2 * np.pi * along * rng.uniform(2, 6)))
  return paper + rng.uniform(-35, 35, 3) * pattern[..., None]
