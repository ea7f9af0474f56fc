"""The gallery: every figure of the pages, with a link to the page that explains it."""

from __future__ import annotations

import os
from pathlib import Path

from docs.generate.markdown import links


def pages(repository: Path) -> dict[str, str]:
  """Returns path -> text.

  Raises:
    ValueError: a figure has no description, or no page shows it.
  """
  parts, shown = [], set()
  for page in sorted((repository / "docs").glob("*.md")):
    text = page.read_text(encoding="utf-8")
    images = [link for link in links(text) if link.image]
    if without := [f"{page}:{link.line}" for link in images if not link.text]:
      raise ValueError(f"figures without a description: {', '.join(without)}")
    if images:
      title = text.partition("\n")[0].lstrip("# ")
      parts.append(f"## [{title}]({page.name})\n")
      parts += [f":::{{figure}} {link.target}\n:alt: {link.text}\n\n{link.text}\n:::\n" for link in images]
      shown |= {os.path.basename(link.target) for link in images}
  files = {file.name for file in (repository / "docs" / "figures").iterdir()}
  if unused := sorted(files - shown):
    raise ValueError(f"figures that no page shows: {', '.join(unused)}")
  return {"gallery.md": "\n".join(["# Figures\n", *parts])}
