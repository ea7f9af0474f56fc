"""One self-contained page of predictions: each image with its most probable classes.

The page draws what it is given and predicts nothing: `Card` holds a picture that is ready to be shown.
"""

from __future__ import annotations

import base64
import io
import os
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxtl.data.class_names import display_name
from jaxtl.inference.tables import Predictions, Ranked, to_csv, to_json
from jaxtl.report import page
from jaxtl.report.grid import Grid

MOST_CARDS = 300  # images on a page, which stays below about 10 MB
_SIDE = 320  # pixels of the longer side of a thumbnail
_SMALL = 96  # images up to this size are enlarged without smoothing, and stored without loss

_STYLE = """
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,15rem),1fr));gap:1.6rem 1.3rem;
 margin-top:1.2rem}
.cards img{display:block;width:100%;height:11rem;object-fit:contain;background:var(--wash);border-radius:6px}
.cards .small{image-rendering:pixelated}
.cards figcaption{margin:.4rem 0 .5rem;font-size:.8rem;overflow:hidden;text-overflow:ellipsis;
 white-space:nowrap}
.share{display:grid;grid-template-columns:1fr auto;gap:0 .6rem;font-size:.86rem;line-height:1.3;
 margin-top:.35rem}
.share span{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.share b{font-weight:500}
.share:first-of-type b,.share:first-of-type span{font-weight:650}
.share i{grid-column:1/-1;height:.3rem;border-radius:2px;background:var(--wash);overflow:hidden;
 margin-top:.15rem}
.share i::before{content:"";display:block;height:100%;width:var(--share);background:var(--arm-0)}
@media print{.cards figure{break-inside:avoid}}
"""


class Card(NamedTuple):
  """An image of the page: its picture, uint8 or float [H, W, 3] from 0 to 255, and its classes."""

  picture: np.ndarray
  image: Ranked


def files(found: Predictions, cards: Sequence[Card]) -> dict[str, str]:
  """Returns the page and the same predictions as JSON and CSV, by name."""
  return {
    "index.html": to_html(found, cards),
    "predictions.json": to_json(found),
    "predictions.csv": to_csv(found),
  }


def to_html(found: Predictions, cards: Sequence[Card]) -> str:
  """Makes the page, which has no script, loads nothing, and supports light and dark mode.

  Args:
    found: the predictions.
    cards: the images that are shown: the first ones, at most `MOST_CARDS`.
  """
  count = len(found.images)
  title = f"Predictions for {count:,} image{'s' * (count > 1)}"
  facts = {
    "images": f"{count:,}",
    "classes": f"{found.num_classes:,}",
    "image size": " x ".join(map(str, found.image_shape)),
    "unreadable": f"{len(found.unreadable):,}",
  }
  links = {"images": "Images", "classes": "Classes", "behind": "Behind the numbers"}
  shown = f"The first {len(cards):,} of {count:,} images. " if len(cards) < count else ""
  parts = [
    page.header("Predictions", title, _lead(found), facts),
    page.navigation(links),
    '<h2 id="images">Images</h2>',
    f'<p class="note">{shown}A bar is the probability of a class.</p>',
    '<div class="cards">',
    *(_card(card, name) for card, name in zip(cards, _below([card.image.name for card in cards]))),
    "</div>",
    '<h2 id="classes">Classes</h2>',
    page.text_table(_classes(found)),
    '<h2 id="behind">Behind the numbers</h2>',
    page.text_table(_behind(found)),
    "<footer>Made by <code>jaxtl predict</code>. The same predictions are next to this page: "
    "predictions.json and predictions.csv.</footer>",
  ]
  return page.document(title, parts, style=_STYLE)


def thumbnail(picture: np.ndarray) -> tuple[str, bool]:
  """Returns a picture as a `data:` address, and whether it is shown enlarged without smoothing."""
  pixels = np.clip(np.round(picture), 0, 255).astype(np.uint8)
  image, file = Image.fromarray(np.ascontiguousarray(pixels)), io.BytesIO()
  small = max(image.size) <= _SMALL
  if not small:
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
  kind = "png" if small else "jpeg"
  image.save(file, kind, **({} if small else {"quality": 85}))
  return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}", small


def _below(names: Sequence[str]) -> list[str]:
  """Returns the paths below the folder that all of them share."""
  if len({os.path.isabs(name) for name in names}) != 1:
    return list(names)
  shared = os.path.commonpath([os.path.dirname(name) for name in names])
  return [os.path.relpath(name, shared) if shared else name for name in names]


def _card(card: Card, caption: str) -> str:
  address, small = thumbnail(card.picture)
  name = page.escape(card.image.name)
  shares = "".join(_share(*entry) for entry in card.image.best)
  kind = ' class="small"' if small else ""
  return (
    f'<figure><img{kind} loading="lazy" alt="{name}" src="{address}">'
    f'<figcaption title="{name}">{page.escape(caption)}</figcaption>{shares}</figure>'
  )


def _share(name: str, probability: float) -> str:
  return (
    f'<div class="share" title="{page.escape(name)}"><span>{page.escape(display_name(name))}</span>'
    f'<b>{probability:.1%}</b><i style="--share:{100 * probability:.2f}%"></i></div>'
  )


def _lead(found: Predictions) -> list[str]:
  """Returns the main finding, followed by its qualifications."""
  first = [image.best[0] for image in found.images]
  (name, most), *_ = Counter(name for name, _ in first).most_common(1)
  mean = float(np.mean([probability for _, probability in first]))
  if len(first) == 1:
    said = [f"{display_name(name)}, with a probability of {mean:.1%}."]
  else:
    said = [
      f"The most frequent class is {display_name(name)!r}, first for {most:,} of {len(first):,} images.",
      f"The first class of an image has a probability of {mean:.1%} on average.",
    ]
  said.append("The network chooses among its own classes, even for an image that shows none of them.")
  if found.unreadable:
    number = len(found.unreadable)
    said.append(f"{number:,} image{'s' * (number > 1)} could not be read and {_are(number)} left out.")
  return said


def _are(number: int) -> str:
  return "are" if number > 1 else "is"


def _classes(found: Predictions) -> Grid:
  """Returns a table of how many images each class is first for."""
  shares: dict[str, list[float]] = {}
  for image in found.images:
    name, probability = image.best[0]
    shares.setdefault(name, []).append(probability)
  total = len(found.images)
  rows = [
    [display_name(name), f"{len(values):,}", f"{len(values) / total:.1%}", f"{np.mean(values):.1%}"]
    for name, values in sorted(shares.items(), key=lambda item: (-len(item[1]), item[0]))
  ]
  return Grid("Classes that are first", ["class", "images", "share", "mean probability"], rows)


def _behind(found: Predictions) -> Grid:
  rows = [
    ["checkpoint", found.checkpoint],
    ["model", found.model],
    ["preprocessing", found.transforms],
    *(["unreadable", line] for line in found.unreadable),
  ]
  return Grid("Behind the numbers", ["", ""], rows, words=frozenset({1}))
