"""What the check of the built site finds."""

from __future__ import annotations

import pytest
from check_site import wrong_in_markdown, wrong_in_site


@pytest.fixture
def site(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "other.html").write_text('<p id="here">there</p><a href="../">up</a>')
    (tmp_path / "style.css").write_text("body { background: url(data:image/png;base64,AAAA) }")
    return tmp_path


def check(site, body):
    (site / "index.html").write_text(body)
    return wrong_in_site(site)


@pytest.mark.parametrize("body", [
    '<a href="sub/other.html#here">x</a>', '<a href="https://example.org/">x</a>', '<a href="#own">x</a><b id="own">y</b>', '<a href="mailto:a@b.c">x</a>',
    '<link rel="stylesheet" href="style.css?v=1">', '<link rel="canonical" href="https://example.org/">', "<style>b { color: red }</style>"])
def test_a_whole_site(site, body):
    assert check(site, body) == []


@pytest.mark.parametrize(("body", "wrong"), [
    ('<a href="absent.html">x</a>', "absent.html leads nowhere"),
    ('<a href="sub/other.html#nowhere">x</a>', "sub/other.html#nowhere leads nowhere"),
    ('<a href="#nowhere">x</a>', "#nowhere leads nowhere"),
    ('<img src="absent.png">', "absent.png leads nowhere"),
    ('<script src="https://cdn.example.org/x.js"></script>', "loads https://cdn.example.org/x.js"),
    ('<script src="//cdn.example.org/x.js"></script>', "loads //cdn.example.org/x.js"),
    ('<link rel="stylesheet" href="https://fonts.example.org/x.css">', "loads https://fonts.example.org/x.css"),
    ('<link rel="preconnect" href="https://fonts.example.org">', "loads https://fonts.example.org"),
    ('<img srcset="style.css 1x, https://example.org/b.png 2x">', "loads https://example.org/b.png"),
    ("<style>@import 'https://example.org/x.css';</style>", "loads https://example.org/x.css"),
    ('<p style="background: url(https://example.org/x.png)">', "loads https://example.org/x.png")])
def test_what_is_wrong(site, body, wrong):
    assert check(site, body) == [f"index.html: {wrong}"]


def test_a_style_sheet_that_loads_from_elsewhere(site):
    (site / "style.css").write_text("@font-face { src: url('https://fonts.example.org/x.woff2') }")
    assert check(site, "") == ["style.css: loads https://fonts.example.org/x.woff2"]


def test_links_of_markdown(tmp_path):
    (tmp_path / "there.md").write_text("")
    (tmp_path / "page.md").write_text("[a](there.md#x), [b](https://example.org), [c](absent.md), ![d](absent.svg)")
    assert [line.split(": ")[1] for line in wrong_in_markdown(tmp_path / "page.md")] == ["absent.md leads nowhere", "absent.svg leads nowhere"]
