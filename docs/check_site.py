"""Check a built site: every link within it leads somewhere, and no page loads anything from elsewhere. Given Markdown files too,
that what these link to is there.

    python docs/check_site.py build/docs README.md ...
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: What a browser fetches by itself, by tag and attribute; a link that somebody follows may lead elsewhere.
_LOADED = {("script", "src"), ("link", "href"), ("img", "src"), ("img", "srcset"), ("source", "src"), ("source", "srcset"),
           ("iframe", "src"), ("object", "data"), ("video", "src"), ("audio", "src"), ("use", "href"), ("image", "href")}
_NOT_FETCHED = {"canonical", "next", "prev", "index", "search", "author", "copyright"}
_IN_STYLE = re.compile(r"""(?:url\(\s*|@import\s+)['"]?([^'")\s;]+)""")
_MARKDOWN_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass
class Page(HTMLParser):
    """What a page has: places that can be linked to, links, and what it loads."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        self._style = tag == "style"
        self.loaded += _IN_STYLE.findall(given.get("style", ""))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        for name, value in given.items():
            if (tag, name) in _LOADED and not (tag == "link" and given.get("rel") in _NOT_FETCHED):
                self.loaded += [part.split()[0] for part in value.split(",") if part.split()] if name == "srcset" else [value]

    def handle_data(self, data: str) -> None:
        if self._style:
            self.loaded += _IN_STYLE.findall(data)


def wrong_in_site(site: Path) -> list[str]:
    """What is wrong, a line each."""
    pages = {path: _read(path) for path in sorted(site.rglob("*.html"))}
    wrong = []
    for path, page in pages.items():
        where = path.relative_to(site)
        wrong += [f"{where}: loads {target}" for target in page.loaded if _elsewhere(target)]
        wrong += [f"{where}: {target} leads nowhere" for target in {*page.links, *page.loaded}
                  if not _elsewhere(target) and not _there(path, target, pages)]
    for path in sorted(site.rglob("*.css")):
        loaded = _IN_STYLE.findall(path.read_text())
        wrong += [f"{path.relative_to(site)}: loads {target}" for target in loaded if _elsewhere(target)]
    return wrong


def wrong_in_markdown(path: Path) -> list[str]:
    """Links of a file to files that are not there."""
    return [f"{path}: {target} leads nowhere" for target in _MARKDOWN_LINK.findall(path.read_text())
            if not _elsewhere(target) and (file := target.split("#")[0]) and not (path.parent / file).exists()]


def _read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text())
    return page


def _elsewhere(target: str) -> bool:
    parts = urlsplit(target)
    return bool(parts.netloc) or parts.scheme not in ("", "data", "file")


def _there(page: Path, target: str, pages: dict[Path, Page]) -> bool:
    parts = urlsplit(target)
    if parts.scheme == "data":
        return True
    path = page if not parts.path else (page.parent / unquote(parts.path)).resolve()
    if path.is_dir():
        path = path / "index.html"
    if not path.is_file():
        return False
    found = pages.get(path)
    return not parts.fragment or found is None or unquote(parts.fragment) in found.ids


def main(site: Path, *texts: Path) -> int:
    """Print what is wrong, a line each, and return 1; or else the number of pages."""
    wrong = [*wrong_in_site(site.resolve()), *(line for text in texts for line in wrong_in_markdown(text))]
    pages = len(list(site.rglob("*.html")))
    print("\n".join(wrong) if wrong else f"{pages} pages: every link leads somewhere, nothing is loaded from elsewhere")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
