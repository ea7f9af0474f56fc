"""The parts of the site: pages that people write, pages made from the code, figures, and the contents."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from docs.generate import api, commands, exit_codes, gallery, markdown, settings, tutorials
from docs.generate.symbols import public

# Pages outside docs/ and their places on the site.
OUTSIDE = {
  "README.md": "readme.md",
  "RELIABILITY.md": "reliability.md",
  "CONTRIBUTING.md": "contributing.md",
  "SECURITY.md": "security.md",
  "CHANGELOG.md": "changelog.md",
  "launch/README.md": "launching.md",
}
PROJECT = ("reliability", "launching", "testing", "contributing", "security", "changelog")


def written_pages(repository: Path) -> dict[str, str]:
  """Returns path in the repository -> path on the site of the pages that people write."""
  docs = repository / "docs"
  inside = [file.relative_to(docs) for file in sorted(docs.rglob("*.md"))]
  return OUTSIDE | {f"docs/{path}": str(path) for path in inside}


def everything(repository: Path) -> dict[str, bytes]:
  """Returns path -> content of all that Sphinx reads.

  Raises:
    ValueError: a generated page has a hole, or a link is broken; the message names it.
    TutorialError: a tutorial fails.
  """
  pages = written_pages(repository)
  if broken := [line for page in pages for line in markdown.broken(repository / page)]:
    raise ValueError("\n".join(broken))
  figures = {f"docs/figures/{file.name}": file for file in (repository / "docs" / "figures").iterdir()}
  places = pages | {name: f"figures/{file.name}" for name, file in figures.items()}
  names = {symbol.path: page for symbol, page in api.page_names(public()).items()}
  generated = settings.pages() | commands.pages() | exit_codes.pages(repository) | gallery.pages(repository)
  content: dict[str, bytes] = {places[name]: file.read_bytes() for name, file in figures.items()}
  for page, place in pages.items():
    text = (repository / page).read_text(encoding="utf-8")
    if page.startswith("docs/tutorials/"):
      done = tutorials.run(repository / page)
      text = done.text
      content |= {f"tutorials/{name}": image for name, image in done.figures.items()}
    text = markdown.moved(text, page, places)
    generated[place] = _with_config_links(text, generated) if place.startswith("studies/") else text
  generated["index.md"] += _contents(generated)
  content |= {place: markdown.with_api_links(text, names).encode() for place, text in generated.items()}
  return content | {place: text.encode() for place, text in api.pages().items()}


def _with_config_links(text: str, pages: Mapping[str, str]) -> str:
  """Links code such as `Pretrain` to the page of that dataclass in the configuration reference."""

  def link(found: re.Match[str]) -> str:
    page = f"reference/config/{found.group(1)}.md"
    return f"[{found.group()}](/{page})" if page in pages else found.group()

  return re.sub(r"(?<!\[)`(\w+)`", link, text)


def _contents(pages: dict[str, str]) -> str:
  """Returns the contents of the site; a page in docs/ that no list names is among the results."""
  names = sorted(place.removesuffix(".md") for place in pages)
  top = [name for name in names if "/" not in name and name not in (*PROJECT, "index", "readme", "gallery")]
  below = {room: [name for name in names if name.startswith(f"{room}/")] for room in ("tutorials", "studies")}
  reference = ["api/index", "reference/config/index", "reference/commands", "reference/exit_codes"]
  lists = {
    "Start": ["Read me <readme>"],
    "Tutorials": below["tutorials"],
    "Studies": below["studies"],
    "Results": [*top, "gallery"],
    "Reference": reference,
    "Project": list(PROJECT),
  }
  blocks = [
    "```{toctree}\n:hidden:\n:maxdepth: 1\n:caption: " + caption + "\n\n" + "\n".join(each) + "\n```\n"
    for caption, each in lists.items()
    if each
  ]
  return "\n" + "\n".join(blocks)
