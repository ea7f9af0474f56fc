"""Refuses a built page that loads anything from another host: `python -m docs.generate.offline FOLDER`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

# Tags that load what they name; `a` only points to it, and so does `link` for these relations.
_LOADING = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src", "video": "src"}
_POINTING = {"canonical", "next", "prev", "author", "license"}
_OTHER_HOST = re.compile(r"(https?:)?//")
_IN_STYLE = re.compile(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")\s]+)")


class _Loads(HTMLParser):
  """Collects what a page loads from other hosts."""

  def __init__(self) -> None:
    super().__init__()
    self.found: list[str] = []

  def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
    given = {name: value or "" for name, value in attrs}
    target = given.get(_LOADING.get(tag, ""), "")
    if _OTHER_HOST.match(target) and given.get("rel") not in _POINTING:
      self.found.append(target)
    self.found += _IN_STYLE.findall(given.get("style", ""))


def loads(folder: Path) -> Iterator[str]:
  """Yields `file: address` of everything that pages and style sheets load from other hosts."""
  for file in sorted(folder.rglob("*")):
    if file.suffix == ".html":
      page = _Loads()
      page.feed(file.read_text(encoding="utf-8"))
      yield from (f"{file}: {target}" for target in page.found)
    elif file.suffix == ".css":
      yield from (f"{file}: {target}" for target in _IN_STYLE.findall(file.read_text(encoding="utf-8")))


def main(folder: str) -> int:
  """Prints what is loaded from other hosts, and returns the exit code."""
  found = list(loads(Path(folder)))
  print(*found, sep="\n", file=sys.stderr, end="\n" if found else "")
  if not (Path(folder) / "index.html").is_file():
    print(f"docs: {folder} has no index.html", file=sys.stderr)
    return 1
  return 1 if found else 0


if __name__ == "__main__":
  if len(sys.argv) != 2:
    sys.exit("usage: python -m docs.generate.offline FOLDER")
  sys.exit(main(sys.argv[1]))
