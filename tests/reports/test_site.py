from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from report_cases import ATTACK, write_cells, write_run

from benchmark.errors import InputError
from benchmark.specification import SINGLE
from reports.markdown import markdown_table
from reports.site import write_report
from reports.text import NOT_TUNED, ONLY_BLIND

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


FORMS = {"leaderboard.md", "leaderboard.csv", "families.csv", "leaderboard.tex", "leaderboard.json", "leaderboard.schema.json"}


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
                target, _, place = target.partition("#")
                assert (site / target).resolve().is_relative_to(site.resolve()) and (site / target).is_file(), target
                assert not place or any(of.get("id") == place for _, of in found[target].tags), place
            if tag == "img":
                assert attributes.get("alt") and attributes.get("loading") == "lazy"
    linked = {attributes["href"] for page in found.values() for tag, attributes in page.tags if tag == "a" and attributes.get("href")}
    assert set(found) <= linked | {"index.html"}
    names = {path.name for path in (site / "assets").iterdir()}
    for figure in ("tradeoff", "accuracy", "single-ssim"):
        assert {f"b-data-b-lenet-{figure}.svg", f"b-data-b-lenet-{figure}.csv"} <= names
    assert {"b-data-b-lenet-tradeoff-narrow.svg", "summary-0-single.svg"} <= names
    assert not any(name.endswith(".png") and "single" not in name for name in names)  # pictures of galleries alone


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
    from reports.plan import _Names
    names = _Names()
    assert [names.unique(text) for text in ("CIFAR10 lenet", "cifar10-lenet", "../..", "防御", "index", "x" * 300)] == [
        "cifar10-lenet", "cifar10-lenet-2", "page", "page-2", "index-2", "x" * 60]


def test_figures_can_be_drawn_for_more_defenses_than_colours(tmp_path):
    from reports.drawing import Palette
    defenses = [f"noise(std={i})" for i in range(25)]
    single = Palette([(name, [name]) for name in defenses], [None])
    assert len({(look.colour, str(look.line), look.marker) for look in single.families.values()}) == 25
    assert len({look.colour for look in single.families.values()}) == 8
    together = Palette([("none", ["none"]), ("noise(std)", defenses)], ["none"])
    assert len({(str(together.defenses[name].line), together.defenses[name].marker) for name in defenses}) == 25
    assert {together.defenses[name].colour for name in defenses} == {together.families["noise(std)"].colour} != {together.families["none"].colour}
    run = write_run(tmp_path / "run", {(name, 0): [0.1, 0.2, 0.3] for name in defenses}, {(name, 0): [0.7, 0.1] for name in defenses})
    write_report([run], tmp_path / "site")


def test_the_gallery_shows_the_stored_images_and_their_scores(tmp_path):
    import numpy as np
    from PIL import Image

    from benchmark.store.layout import images_key
    from benchmark.store.results import read_run
    from reports.gallery import Pictures
    from reports.leaderboard import build
    scores = np.linspace(0.9, 0.1, 20).tolist()
    run = read_run(write_run(tmp_path / "run", {("none", 0): [0.1, 0.2, 0.3], ("mine", 0): [0.1, 0.2, 0.3]},
                             {("none", 0): scores, ("mine", 0): scores[::-1]}))
    (section,) = build([run])
    (tmp_path / "assets").mkdir()
    pictures = Pictures(section, SINGLE)
    by_name = {entry.defense: entry for entry in section.board.entries}
    for name, ascending in (("none", False), ("mine", True)):
        gallery = pictures.of_defense(by_name[name], tmp_path, name)
        first, best, worst = gallery.choices
        cell = next(cell for cell in run.cells if cell.trained["defense"] == name)
        stored = cell.images(SINGLE)[images_key(0, ATTACK, "both")][:, 0].transpose(0, 2, 3, 1)
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


@pytest.mark.parametrize("batch", [1, 2])
def test_the_worst_case_shows_the_images_of_the_attacks_that_were_chosen(tmp_path, batch):
    """Per victim, with all its images; the oracle bound likewise, where it differs."""
    import numpy as np
    from PIL import Image

    from benchmark.store.layout import images_key
    from benchmark.store.results import read_run
    from reports.gallery import Pictures
    from reports.leaderboard import build
    mode = SINGLE if batch == 1 else str(batch)
    score, ssim = {"a": [1.0, 9.0, 1.0], "b": [2.0, 2.0, 2.0]}, {"a": [0.1, 0.2, 0.8], "b": [0.9, 0.3, 0.7]}
    attacks = {(0, name, "informed"): {"ssim": np.repeat(ssim[name], batch).tolist(), "score": np.repeat(score[name], batch).tolist()} for name in "ab"}
    run = read_run(write_cells(tmp_path / "run", {("d", "m", "mine", seed): {"accuracies": [0.1, 0.2], "attacks": attacks} for seed in (3, 4)},
                               epochs=1, attacks=["a", "b"], victims=3, observed=(mode,)))
    (section,) = build([run])
    (tmp_path / "assets").mkdir()
    pictures = Pictures(section, mode)
    gallery = pictures.of_defense(section.board.entries[0], tmp_path, "x")
    stored = next(cell for cell in run.cells if cell.trained["seed"] == 3).images(mode)
    rows = gallery.choices[0].rows
    assert [row.title for row in rows] == ["original", "informed worst case", "oracle bound", "informed b", "informed a"]
    for row, chosen in ((1, "aba"), (2, "bba")):
        expected = np.concatenate([stored[images_key(0, name, "informed")][victim] for victim, name in enumerate(chosen)]).transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / rows[row].file)), np.concatenate(list(expected), axis=1))
        assert [p.ssim for p in rows[row].pictures] == np.repeat([ssim[name][victim] for victim, name in enumerate(chosen)], batch).tolist()
    (worst,) = pictures.of_board(tmp_path, "y").choices[0].rows[1:]
    assert (worst.title, worst.subtitle) == ("mine", "untrained" if batch == 1 else "untrained, 2 images")
    originals, rebuilt = pictures.example("mine", 0, 2)
    np.testing.assert_array_equal(originals, stored["original"].reshape(-1, 3, 8, 8)[:2])
    np.testing.assert_array_equal(rebuilt[0], stored[images_key(0, "a", "informed")][0, 0])


def test_the_gallery_of_a_board_shows_the_checkpoint_that_ranks(tmp_path):
    from benchmark.store.results import read_run
    from reports.gallery import Pictures
    from reports.leaderboard import build
    attacks = {(epoch, "a", "both"): ssims for epoch, ssims in ((0, [0.1, 0.1]), (2, [0.9, 0.2]), (5, [0.3, 0.3]))}
    run = write_cells(tmp_path / "run", {("d", "m", "mine", 0): {"accuracies": [0.1, 0.2], "attacks": attacks}}, epochs=5, attacks=["a"], victims=2)
    (section,) = build([read_run(run)])
    (tmp_path / "assets").mkdir()
    pictures = Pictures(section, SINGLE)
    pictures.of_defense(section.board.entries[0], tmp_path, "x")
    (worst,) = pictures.of_board(tmp_path, "y").choices[0].rows[1:]
    assert worst.subtitle == "after 2 epochs" and [picture.ssim for picture in worst.pictures] == [0.9, 0.2]
    assert not (pictures.example("mine", 0, 2)[1] == pictures.example("mine", 2, 2)[1]).all() and pictures.example("mine", 1, 2) is None


def test_the_curve_of_similarities_gives_the_share_at_least_as_high():
    import pandas as pd

    from reports.figures import at_least
    corners = at_least(pd.Series([0.6, 0.2, 0.6, 0.9]))
    assert corners.tolist() == [[-1, 1], [0.2, 1], [0.2, 0.75], [0.6, 0.75], [0.6, 0.5], [0.6, 0.5], [0.6, 0.25], [0.9, 0.25], [0.9, 0.0]]


def test_the_figure_of_similarities_settles_on_settings(tmp_path):
    """For a victim on that which rebuilds the other, blind and informed apart; an attack made once for both is in both."""
    from benchmark.store.results import read_run
    from reports.figures import by_name
    from reports.leaderboard import build
    attacks = {(0, "a(x=1)", "informed"): {"ssim": [0.1, 0.2], "score": [1.0, 1.0]}, (0, "a(x=2)", "informed"): {"ssim": [0.9, 0.3], "score": [2.0, 2.0]},
               (0, "a(x=1)", "blind"): {"ssim": [0.5, 0.5], "score": [0.0, 0.0]}, (0, "b", "both"): {"ssim": [0.6, 0.7], "score": [5.0, 5.0]}}
    run = write_cells(tmp_path / "run", {("d", "m", "mine", 0): {"accuracies": [0.1, 0.2], "attacks": attacks}}, epochs=1, attacks=["a(x=1)", "a(x=2)", "b"], victims=2)
    found = by_name(build([read_run(run)])[0].reconstructions)
    assert {place: frame.sort_values("victim")["ssim"].tolist() for place, frame in found.groupby(["name", "knowledge"])} == {
        ("a", "blind"): [0.5, 0.5], ("a", "informed"): [0.9, 0.3], ("b", "blind"): [0.6, 0.7], ("b", "informed"): [0.6, 0.7],
        ("worst case", "blind"): [0.6, 0.7], ("worst case", "informed"): [0.6, 0.3]}


def test_markdown_rows_keep_their_cells():
    table = markdown_table(["a", "b"], [["x|y\nz", "<i>"], ["noise(std=0.01)", "0.50 [0.28, 0.72]"]])
    assert table.splitlines()[2:] == ["| x\\|y z | &lt;i&gt; |", "| noise(std=0.01) | 0.50 [0.28, 0.72] |"]


def test_cautions_are_shown_where_due(tmp_path):
    """That only blind attackers were measured where it is so, and what no board has yet everywhere."""
    for known, shown in ((("blind",), True), (("blind", "informed"), False)):
        run = write_run(tmp_path / str(shown), {("none", 0): [0.1, 0.2, 0.3]}, {("none", 0): [0.7]}, knowledge="blind", known=known)
        index = write_report([run], tmp_path / f"{shown}-site")
        forms = {name: (index.parent / name).read_text() for name in ("index.html", "digits-lenet.html", "leaderboard.md")}
        for content in forms.values():
            assert (ONLY_BLIND in content) is shown and NOT_TUNED in content
        board = forms["digits-lenet.html"]
        assert f'<p class="caution"><strong>{NOT_TUNED}</strong></p>' in board and board.index(NOT_TUNED) < board.index("<table")
        assert not shown or board.index(ONLY_BLIND) < board.index("<table")


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
    run = write_run(tmp_path / "run", {("none", 0): []}, {}, missing=(("none", 0),), known=("blind",))
    index = write_report([run], tmp_path / "site")
    assert "RuntimeError: broken" in (index.parent / "digits-lenet.html").read_text()
    assert ONLY_BLIND not in index.read_text()
    with pytest.raises(InputError, match="not a run folder"):
        write_report([tmp_path / "absent"], tmp_path / "site")


@pytest.mark.parametrize(("shape", "message"), [((3, 1, 3, 8, 8), "has 3 images, but 2 rows"), ((2, 1, 3, 8), "expected uint8"),
                                                ((2, 1, 4, 8, 8), "expected uint8")])
def test_images_that_do_not_belong_to_the_tables_are_named(tmp_path, shape, message):
    import numpy as np

    from benchmark.store.layout import images_key
    run = write_run(tmp_path / "run", {("none", 0): [0.1, 0.2, 0.3]}, {("none", 0): [0.7, 0.1]})
    (file,) = run.glob("cells/*/attack-*/images.npz")
    wrong = np.zeros(shape, dtype=np.uint8)
    np.savez(file, original=wrong, **{images_key(0, ATTACK, "both"): wrong})
    with pytest.raises(InputError, match=message):
        write_report([run], tmp_path / "site")
    assert not (tmp_path / "site").exists() and {p.name for p in tmp_path.iterdir()} == {"run"}
