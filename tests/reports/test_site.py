from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from test_leaderboard import write_run

from benchmark.errors import InputError
from reports.site import write_report
from reports.text import markdown_table

HOSTILE = ["<script>alert(1)</script>", "x" * 300, "Ünïcödé 防御 🛡", "../../etc/passwd", r"$\frac{$", "_hidden", "a|b `c` [d](http://e) *f*", "</style><img src=x onerror=y>"]


class Page(HTMLParser):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def hostile(tmp_path):
    names = ["none", *HOSTILE]
    return write_run(tmp_path / "run", {(name, 0): [0.1, 0.2, 0.3] for name in names}, {(name, 0): [0.7, 0.1] for name in names},
                     dataset="<b>data</b>")


def test_everything_is_there_and_local(tmp_path, hostile):
    index = write_report([hostile], tmp_path / "site")
    page = Page(index.read_text())
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert sources and all(source.startswith("assets/") and (tmp_path / "site" / source).is_file() for source in sources)
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert not any(tag in ("script", "link", "iframe") for tag, _ in page.tags)
    assert not re.search(r"https?://", re.sub(r"http://e", "", index.read_text()))
    assert {p.name for p in (tmp_path / "site").iterdir()} == {"index.html", "leaderboard.md", "leaderboard.csv", "assets"}
    assert sum(path.suffix == ".svg" for path in (tmp_path / "site" / "assets").iterdir()) == 2


def test_hostile_names_stay_text(tmp_path, hostile):
    page = Page(write_report([hostile], tmp_path / "site").read_text())
    for name in HOSTILE:
        assert name in page.text
    assert all("onerror" not in attributes for _, attributes in page.tags)
    assert not any(tag in ("script", "b") for tag, _ in page.tags)
    svgs = "".join(path.read_text() for path in (tmp_path / "site" / "assets").glob("*.svg"))
    assert "<script" not in svgs
    assert "<script" not in (tmp_path / "site" / "leaderboard.md").read_text()


def test_markdown_rows_keep_their_cells():
    table = markdown_table(["a", "b"], [["x|y\nz", "<i>"], ["noise(std=0.01)", "0.50 [0.28, 0.72]"]])
    assert table.splitlines()[2:] == ["| x\\|y z | &lt;i&gt; |", "| noise(std=0.01) | 0.50 [0.28, 0.72] |"]


def test_caution_about_static_attacks_is_shown_where_due(tmp_path):
    cells = {("none", 0): [0.1, 0.2, 0.3]}
    for tier, shown in (("static", True), ("adaptive", False)):
        run = write_run(tmp_path / tier, cells, {("none", 0): [0.7]}, tier=tier)
        index = write_report([run], tmp_path / f"{tier}-site")
        assert ("Only static attacks were run" in index.read_text()) is shown
        assert ("Only static attacks were run" in (tmp_path / f"{tier}-site" / "leaderboard.md").read_text()) is shown


def test_equal_tables_give_equal_reports(tmp_path, hostile):
    first, second = (write_report([hostile], tmp_path / name).parent for name in ("a", "b"))
    for path in sorted(p for p in first.rglob("*") if p.is_file()):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes(), path.name


def test_an_earlier_report_is_replaced_but_nothing_else(tmp_path, hostile):
    write_report([hostile], tmp_path / "site")
    write_report([hostile], tmp_path / "site")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("precious")
    with pytest.raises(InputError, match="not a report"):
        write_report([hostile], tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "precious"


def test_a_run_without_any_result_still_has_a_report(tmp_path):
    run = write_run(tmp_path / "run", {("none", 0): []}, {}, missing=(("none", 0),))
    index = write_report([run], tmp_path / "site")
    assert "RuntimeError: broken" in index.read_text()
    with pytest.raises(InputError, match="not a run folder"):
        write_report([tmp_path / "absent"], tmp_path / "site")
