"""Predictions on the terminal, in files and on a page: all of them, escaped, and nothing from outside."""

import base64
import csv
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from jaxtl.inference import page, tables
from jaxtl.inference.tables import Predictions, Ranked
from tests.data.made_images import smooth_image

HOSTILE = '<script>alert("&")</script>\x1b[1m'


def predictions(*names, best=(("n01440764 tench, Tinca tinca", 0.75), ("b", 0.25)), unreadable=()):
  images = [Ranked(name, best) for name in names]
  return Predictions("runs/a/0", "resnet8(width=4)", "normalize()", (32, 32), 2, images, unreadable)


def html(found, size=(40, 60)):
  return page.to_html(found, [page.Card(smooth_image(*size), image) for image in found.images])


def test_the_terminal_shows_each_image_with_its_classes_aligned():
  assert tables.terminal_text(predictions("x.jpg", "longer.jpg")).splitlines() == [
    *("x.jpg", "  tench   75.0%", "  b       25.0%"),
    *("longer.jpg", "  tench   75.0%", "  b       25.0%"),
  ]


def test_many_images_have_one_line_each():
  text = tables.terminal_text(predictions(*(f"{number}.jpg" for number in range(101))))
  assert text.splitlines()[:2] == ["0.jpg    tench  75.0%", "1.jpg    tench  75.0%"]
  assert len(text.splitlines()) == 101


def test_files_hold_every_class_with_its_whole_name_and_probability():
  found = predictions("a.jpg", "=b.jpg", unreadable=("images: c.jpg cannot be read",))
  rows = list(csv.DictReader(io.StringIO(tables.to_csv(found))))
  assert [(row["file"], row["rank"], row["class"], float(row["probability"])) for row in rows] == [
    ("a.jpg", "1", "n01440764 tench, Tinca tinca", 0.75),
    ("a.jpg", "2", "b", 0.25),
    ("'=b.jpg", "1", "n01440764 tench, Tinca tinca", 0.75),  # no formula
    ("'=b.jpg", "2", "b", 0.25),
  ]
  about = json.loads(tables.to_json(found))
  assert about["images"][1] == {
    "file": "=b.jpg",
    "predictions": [
      {"class": "n01440764 tench, Tinca tinca", "probability": 0.75},
      {"class": "b", "probability": 0.25},
    ],
  }
  assert about["unreadable"] == ["images: c.jpg cannot be read"]
  assert about["checkpoint"] == "runs/a/0"


def test_names_from_outside_are_escaped_everywhere():
  found = predictions(HOSTILE, best=((HOSTILE, 1.0),), unreadable=(HOSTILE,))
  text = html(found)
  assert "<script" not in text
  assert "\x1b" not in text + tables.terminal_text(found)
  assert "&lt;script&gt;" in text


def test_the_page_loads_nothing():
  text = html(predictions("a.jpg", "b.jpg"))
  assert "<script" not in text
  assert "http" not in text
  assert set(re.findall(r'src="(\w+:)', text)) == {"data:"}


def test_the_page_says_what_was_found_and_what_was_left_out():
  text = html(predictions("some/a.jpg", "some/deep/b.jpg", unreadable=("c.jpg: it is empty",)))
  assert "The most frequent class is &#x27;tench&#x27;, first for 2 of 2 images." in text
  assert "1 image could not be read and is left out." in text
  assert "c.jpg: it is empty" in text
  assert "--share:75.00%" in text
  # Captions are paths below the folder that the images share.
  assert '<figcaption title="some/deep/b.jpg">deep/b.jpg</figcaption>' in text
  one = html(predictions("a.jpg"))
  assert "tench, with a probability of 75.0%." in one
  assert "Predictions for 1 image<" in one


@pytest.mark.parametrize(
  ("names", "captions"),
  [
    (["/x/a.jpg", "/x/b.jpg"], ["a.jpg", "b.jpg"]),
    (["/x/a.jpg", "b.jpg"], ["/x/a.jpg", "b.jpg"]),
    (["a.jpg", "x/b.jpg"], ["a.jpg", "x/b.jpg"]),
    (["/a.jpg", "/x/b.jpg"], ["a.jpg", "x/b.jpg"]),
    (["x/y/b.jpg"], ["b.jpg"]),
    ([], []),
  ],
)
def test_captions_leave_out_the_folder_that_all_share(names, captions):
  assert page._below(names) == captions


def test_only_some_of_many_images_are_drawn_and_the_page_says_so():
  found = predictions("a.jpg", "b.jpg", "c.jpg")
  text = page.to_html(found, [page.Card(smooth_image(8, 8), found.images[0])])
  assert "The first 1 of 3 images." in text
  assert text.count("<img") == 1


@pytest.mark.parametrize(("shape", "small"), [((96, 40), True), ((97, 40), False), ((500, 1000), False)])
def test_thumbnails_show_the_image_at_its_proportions(shape, small):
  picture = smooth_image(*shape)
  address, is_small = page.thumbnail(picture.astype(np.float32))
  assert is_small is small
  image = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
  assert max(image.size) <= 320
  assert abs(image.width / image.height - shape[1] / shape[0]) < 0.02
  shown = np.asarray(image.convert("RGB"), float)
  if small:
    np.testing.assert_array_equal(shown, picture)
  else:
    np.testing.assert_allclose(shown.mean(axis=(0, 1)), picture.mean(axis=(0, 1)), atol=2)
