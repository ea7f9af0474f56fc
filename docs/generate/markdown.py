"""Markdown as the site needs it: links, headings, and names of the library."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^()\s]+)\)")
_CODE = re.compile(r"^(```+|~~~+).*?^\1 *$|(?P<ticks>`+)[^`]+?(?P=ticks)(?!`)|<!--.*?-->", re.M | re.S)
_NAME = re.compile(r"`(jaxtl)?(\.[A-Za-z_][\w.]*)`")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.M)


@dataclasses.dataclass(frozen=True)
class Link:
  """A link of a page.

  Attributes:
    line: its line in the page, from 1.
    text: the text shown, or the description of an image.
    target: a path, with or without a fragment, or an address.
    image: whether it is an image.
  """

  line: int
  text: str
  target: str
  image: bool

  @property
  def external(self) -> bool:
    """Whether the target is not a file of the repository."""
    return bool(re.match(r"[a-z][a-z+.-]*:", self.target))


def links(text: str) -> Iterator[Link]:
  """Yields the links of a page, without those in code and comments."""
  code = [found.span() for found in _CODE.finditer(text)]
  for found in _LINK.finditer(text):
    if not any(start <= found.start() < end for start, end in code):
      line = text.count("\n", 0, found.start()) + 1
      yield Link(line, found["text"], found["target"], bool(found["image"]))


def in_cell(text: str) -> str:
  """Escapes what would end the cell of a table."""
  return text.replace("|", "\\|")


def anchors(text: str) -> set[str]:
  """Returns the fragments that GitHub and the site give the headings of a page."""
  plain = _CODE.sub(lambda found: "" if found.group().startswith(("```", "~~~")) else found.group(), text)
  found: set[str] = set()
  for heading in _HEADING.findall(plain):
    slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
    number = next(n for n in range(len(found) + 1) if f"{slug}{f'-{n}' if n else ''}" not in found)
    found.add(f"{slug}-{number}" if number else slug)
  return found


def broken(page: Path) -> list[str]:
  """Returns one line for each link of a page to a file, or a heading, that does not exist."""
  found = []
  for link in links(page.read_text(encoding="utf-8")):
    path, _, fragment = link.target.partition("#")
    file = (page.parent / path).resolve() if path else page
    if link.external:
      continue
    if not file.exists():
      found.append(f"{page}:{link.line}: {link.target} does not exist")
    elif fragment and fragment not in anchors(file.read_text(encoding="utf-8")):
      found.append(f"{page}:{link.line}: {path or page.name} has no heading #{fragment}")
  return found


def moved(text: str, page: str, places: Mapping[str, str]) -> str:
  """Returns a page with its links as they must be on the site.

  Args:
    text: the page.
    page: its path in the repository.
    places: path in the repository -> path on the site, of every page and figure. A link to any other file of
      the repository becomes plain text.
  """
  here = os.path.dirname(places[page])

  def change(found: re.Match[str]) -> str:
    path, mark, fragment = found["target"].partition("#")
    if re.match(r"[a-z][a-z+.-]*:", path) or not path:
      return found.group()
    place = places.get(os.path.normpath(os.path.join(os.path.dirname(page), path)))
    if place is None:
      return found["text"]
    return f"{found['image']}[{found['text']}]({os.path.relpath(place, here or '.')}{mark}{fragment})"

  # A link's text may be code, so code spans cannot be left out here; blocks and comments are.
  blocks = re.compile(r"^(```+).*?^\1 *$|<!--.*?-->", re.M | re.S)
  parts, end = [], 0
  for found in blocks.finditer(text):
    parts += [_LINK.sub(change, text[end : found.start()]), found.group()]
    end = found.end()
  return "".join([*parts, _LINK.sub(change, text[end:])])


def with_api_links(text: str, pages: Mapping[str, str]) -> str:
  """Links code such as `jaxtl.optim.sam` and `.optim.sam` to the page of that symbol.

  Args:
    text: Markdown.
    pages: dotted name -> name of its API page.
  """
  blocks = re.compile(r"^(```+).*?^\1 *$|<!--.*?-->|\[[^\]]*\]\([^)]*\)|^#[^\n]*$", re.M | re.S)
  parts, end = [], 0

  def link(found: re.Match[str]) -> str:
    page = pages.get(f"jaxtl{found.group(2)}")
    return f"[{found.group()}](/api/{page}.rst)" if page else found.group()

  for found in blocks.finditer(text):
    parts += [_NAME.sub(link, text[end : found.start()]), found.group()]
    end = found.end()
  return "".join([*parts, _NAME.sub(link, text[end:])])
