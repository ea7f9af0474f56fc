"""Pictures of data: labelled grids of images, and examples before and after the transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
  from PIL import Image, ImageFont

_TEXT_SIZE = 13
_GAP = 6


def contact_sheet(
  images: Sequence[np.ndarray], titles: Sequence[str] = (), *, columns: int = 10, side: int = 96
) -> Image.Image:
  """Draws a grid of images, each fitted into a square with its title below.

  Args:
    images: [H, W, 3], uint8 or float from 0 to 255, of any sizes.
    titles: one per image, or none; long titles are truncated.
    columns: images per row.
    side: side of the square in pixels.
  """
  from PIL import Image, ImageDraw

  font, line = _font(), (_TEXT_SIZE + 5 if titles else 0)
  rows = -(-len(images) // columns)
  columns = min(columns, max(len(images), 1))
  size = (_GAP + columns * (side + _GAP), _GAP + rows * (side + line + _GAP))
  sheet = Image.new("RGB", size, "white")
  draw = ImageDraw.Draw(sheet)
  for number, image in enumerate(images):
    x = _GAP + number % columns * (side + _GAP)
    y = _GAP + number // columns * (side + line + _GAP)
    picture = _fitted(image, side)
    sheet.paste(picture, (x + (side - picture.width) // 2, y + (side - picture.height) // 2))
    if titles:
      draw.text((x, y + side + 1), _cut(titles[number], font, side), fill="black", font=font)
  return sheet


def augmented_preview(
  originals: Sequence[np.ndarray],
  variants: Sequence[Sequence[np.ndarray]],
  titles: Sequence[str],
  *,
  mean: Sequence[float] = (0.0, 0.0, 0.0),
  std: Sequence[float] = (1 / 255, 1 / 255, 1 / 255),
  side: int = 96,
) -> Image.Image:
  """Draws one row per example: the original, followed by the transformed images.

  Args:
    originals: [H, W, 3] pixels from 0 to 255.
    variants: for each example, the transformed images [h, w, 3].
    titles: one per example, placed under its original.
    mean, std: the arguments of `normalize`, used to undo it; the defaults are for images that were not
      normalised.
    side: side of each square in pixels.
  """
  cells, names = [], []
  for original, row, title in zip(originals, variants, titles, strict=True):
    cells += [original, *[(np.asarray(image) * std + mean) * 255 for image in row]]
    names += [title] + [f"changed {number + 1}" for number in range(len(row))]
  return contact_sheet(cells, names, columns=1 + len(variants[0]), side=side)


def gallery(
  groups: Sequence[tuple[str, Sequence[np.ndarray], Sequence[str]]], *, columns: int = 8, side: int = 112
) -> Image.Image:
  """Draws one row of images per group, with a heading above it and a multi-line title below each image.

  Args:
    groups: (heading, images [H, W, 3] as in `contact_sheet`, titles with line breaks) of each row.
    columns: maximum number of images per row.
    side: side of each image's square in pixels.
  """
  from PIL import Image, ImageDraw

  font, line = _font(), _TEXT_SIZE + 4
  lines = max((title.count("\n") + 1 for _, _, titles in groups for title in titles), default=0)
  height = line + side + lines * line + 3 * _GAP
  width = _GAP + columns * (side + _GAP)
  sheet = Image.new("RGB", (width, _GAP + max(len(groups), 1) * height), "white")
  draw = ImageDraw.Draw(sheet)
  for row, (heading, images, titles) in enumerate(groups):
    y = _GAP + row * height
    draw.text((_GAP, y), _cut(heading, font, width - 2 * _GAP), fill="black", font=font)
    for column, (image, title) in enumerate(list(zip(images, titles, strict=True))[:columns]):
      x = _GAP + column * (side + _GAP)
      picture = _fitted(image, side)
      place = (x + (side - picture.width) // 2, y + line + _GAP // 2 + (side - picture.height) // 2)
      sheet.paste(picture, place)
      for number, text in enumerate(title.split("\n")):
        at = (x, y + line + _GAP // 2 + side + 1 + number * line)
        draw.text(at, _cut(text, font, side), fill="black", font=font)
  return sheet


def _fitted(image: np.ndarray, side: int) -> Image.Image:
  from PIL import Image

  pixels = np.clip(np.round(np.asarray(image, np.float32)), 0, 255).astype(np.uint8)
  picture = Image.fromarray(pixels)
  scale = side / max(picture.size)
  size = [max(1, round(length * scale)) for length in picture.size]
  # Nearest-neighbour enlargement keeps the pixels of small images visible.
  return picture.resize(size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC)


def _font() -> ImageFont.FreeTypeFont:
  from pathlib import Path

  import matplotlib
  from PIL import ImageFont

  return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", _TEXT_SIZE)


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
  if font.getlength(text) <= width:
    return text
  while text and font.getlength(text + "…") > width:
    text = text[:-1]
  return text + "…"
