from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from report_cases import write_run

from benchmark.errors import InputError
from reports.markdown import markdown_table
from reports.site import write_report

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


FORMS = {"leaderboard.md", "leaderboard.csv", "leaderboard.tex", "leaderboard.json", "leaderboard.schema.json"}


def pages(index):
    return {path.name: Page(path.read_text()) for path in index.parent.glob("*.html")}


def test_everything_is_there_and_local(tmp_path, hostile):
    index = write_report([hostile], tmp_path / "site")
    site = index.parent
    found = pages(index)
    assert {p.name for p in site.iterdir()} == {"assets", *FORMS, *found}
    assert len(found) == 1 + 1 + 1 + len(HOSTILE) + 1  # overview, how to read, one board, a page per defense
    for page in found.values():
        for tag, attributes in page.tags:
            for name in ("src", "href"):
                target = attributes.get(name)
                if target is None or target == "data:," or target.startswith("#"):
                    continue
                assert not re.match(r"[a-z]+:|/", target), target  # nothing from elsewhere
                assert (site / target).resolve().is_relative_to(site.resolve()) and (site / target).is_file(), target
            if tag == "img":
                assert attributes.get("alt") and attributes.get("loading") == "lazy"
    linked = {attributes["href"] for page in found.values() for tag, attributes in page.tags if tag == "a" and attributes.get("href")}
    assert set(found) <= linked | {"index.html"}
    names = {path.name for path in (site / "assets").iterdir()}
    for figure in ("front", "accuracy", "epochs", "ssim"):
        assert {f"b-data-b-lenet-{figure}.svg", f"b-data-b-lenet-{figure}.png"} <= names
    assert {"summary-0.svg", "summary-0.png"} <= names


def test_hostile_names_stay_text(tmp_path, hostile):
    index = write_report([hostile], tmp_path / "site")
    found = pages(index)
    for name in HOSTILE:
        assert all(name in found[page].text for page in ("index.html", "b-data-b-lenet.html"))
        assert sum(name in page.text for page in found.values()) >= 3
    for page in found.values():
        assert not any(attribute.startswith("on") for _, attributes in page.tags for attribute in attributes)
        assert [attributes["src"] for tag, attributes in page.tags if tag == "script"] == ["assets/datatables.js", "assets/leakboard.js"]
        assert not any(tag in ("b", "style") for tag, _ in page.tags)
    assert all(len(path.name) < 120 for path in index.parent.rglob("*"))
    svgs = "".join(path.read_text() for path in (tmp_path / "site" / "assets").glob("*.svg"))
    assert "<script" not in svgs
    assert "<script" not in (tmp_path / "site" / "leaderboard.md").read_text()
    tex = (tmp_path / "site" / "leaderboard.tex").read_text()
    assert r"\textbackslash{}frac" not in tex.replace(r"\$\textbackslash{}frac\{\$", "") and r"a\textbar{}b" in tex


def test_pages_have_names_of_their_own():
    from reports.pages import _Names
    names = _Names()
    assert [names.unique(text) for text in ("CIFAR10 lenet", "cifar10-lenet", "../..", "防御", "index", "x" * 300)] == [
        "cifar10-lenet", "cifar10-lenet-2", "page", "page-2", "index-2", "x" * 60]


def test_figures_can_be_drawn_for_more_defenses_than_colours(tmp_path):
    from reports.drawing import palette
    defenses = [f"noise(std={i})" for i in range(25)]
    drawn = palette(defenses)
    assert len({(drawn.colours[d], str(drawn.dashes[d]), drawn.markers[d]) for d in defenses}) == 25
    assert len(set(drawn.colours.values())) == 10
    run = write_run(tmp_path / "run", {(name, 0): [0.1, 0.2, 0.3] for name in defenses}, {(name, 0): [0.7, 0.1] for name in defenses})
    write_report([run], tmp_path / "site")


def test_the_gallery_shows_the_stored_images_and_their_scores(tmp_path):
    import numpy as np
    from PIL import Image

    from benchmark.results import images_key, read_run
    from reports.gallery import Pictures
    from reports.leaderboard import build
    scores = np.linspace(0.9, 0.1, 20).tolist()
    run = read_run(write_run(tmp_path / "run", {("none", 0): [0.1, 0.2, 0.3], ("mine", 0): [0.1, 0.2, 0.3]},
                             {("none", 0): scores, ("mine", 0): scores[::-1]}))
    (section,) = build([run])
    (tmp_path / "assets").mkdir()
    pictures = Pictures(section)
    by_name = {entry.defense: entry for entry in section.board.entries}
    for name, ascending in (("none", False), ("mine", True)):
        gallery = pictures.of_defense(by_name[name], tmp_path, name)
        first, best, worst = gallery.choices
        cell = next(cell for cell in run.cells if cell.trained["defense"] == name)
        stored = cell.images()[images_key(0, by_name[name].attacks[0].attack)][:, 0].transpose(0, 2, 3, 1)
        assert [choice.rows[1].pictures[0].ssim for choice in (best, worst)] == [0.9, pytest.approx(0.1)]
        assert [p.ssim for p in first.rows[1].pictures] == pytest.approx((scores[::-1] if ascending else scores)[:6])
        strip = np.asarray(Image.open(tmp_path / first.rows[1].file))
        victims = strip.shape[1] // 8
        for choice in gallery.choices:
            assert choice.rows[0].pictures[0].alternative.startswith("original of victim")
            for picture in choice.rows[1].pictures:
                victim = int(picture.alternative.split()[1])
                place = round(picture.position / 100 * (victims - 1))
                np.testing.assert_array_equal(strip[:, 8 * place : 8 * place + 8], stored[victim])
                assert picture.ssim == pytest.approx((scores[::-1] if ascending else scores)[victim])


def test_markdown_rows_keep_their_cells():
    table = markdown_table(["a", "b"], [["x|y\nz", "<i>"], ["noise(std=0.01)", "0.50 [0.28, 0.72]"]])
    assert table.splitlines()[2:] == ["| x\\|y z | &lt;i&gt; |", "| noise(std=0.01) | 0.50 [0.28, 0.72] |"]


def test_caution_about_static_attacks_is_shown_where_due(tmp_path):
    cells = {("none", 0): [0.1, 0.2, 0.3]}
    for tier, shown in (("static", True), ("adaptive", False)):
        run = write_run(tmp_path / tier, cells, {("none", 0): [0.7]}, tier=tier)
        index = write_report([run], tmp_path / f"{tier}-site")
        assert all(("Only static attacks were run" in (index.parent / page).read_text()) is shown
                   for page in ("index.html", "digits-lenet.html"))
        assert ("Only static attacks were run" in (tmp_path / f"{tier}-site" / "leaderboard.md").read_text()) is shown


def test_equal_tables_give_equal_reports(tmp_path, hostile):
    first, second = (write_report([hostile], tmp_path / name).parent for name in ("a", "b"))
    for path in sorted(p for p in first.rglob("*") if p.is_file()):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes(), path.name


def test_an_earlier_report_is_replaced_but_nothing_else(tmp_path, hostile):
    write_report([hostile], tmp_path / "site")
    write_report([hostile], tmp_path / "site")
    assert {p.name for p in tmp_path.iterdir()} == {"run", "site"}  # no draft is left
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("precious")
    with pytest.raises(InputError, match="not a report"):
        write_report([hostile], tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "precious"


def test_a_run_without_any_result_still_has_a_report(tmp_path):
    run = write_run(tmp_path / "run", {("none", 0): []}, {}, missing=(("none", 0),))
    index = write_report([run], tmp_path / "site")
    assert "RuntimeError: broken" in (index.parent / "digits-lenet.html").read_text()
    assert "Only static" not in index.read_text()
    with pytest.raises(InputError, match="not a run folder"):
        write_report([tmp_path / "absent"], tmp_path / "site")


@pytest.mark.parametrize(("shape", "message"), [((3, 1, 3, 8, 8), "has 3 images, but 2 rows"), ((2, 1, 3, 8), "expected uint8"),
                                                ((2, 1, 4, 8, 8), "expected uint8")])
def test_images_that_do_not_belong_to_the_tables_are_named(tmp_path, shape, message):
    import numpy as np

    from benchmark.results import images_key
    run = write_run(tmp_path / "run", {("none", 0): [0.1, 0.2, 0.3]}, {("none", 0): [0.7, 0.1]})
    (file,) = run.glob("cells/*/attack-*/images.npz")
    wrong = np.zeros(shape, dtype=np.uint8)
    np.savez(file, original=wrong, **{images_key(0, "inverting-gradients(iterations=1)"): wrong})
    with pytest.raises(InputError, match=message):
        write_report([run], tmp_path / "site")
    assert not (tmp_path / "site").exists() and {p.name for p in tmp_path.iterdir()} == {"run"}
