"""The pages in a real browser. Needs chromium on the path; .ci/run installs it."""

from __future__ import annotations

import os
import shutil

import pytest
from playwright.sync_api import expect, sync_playwright
from report_cases import write_cells, write_run

from benchmark.specification import AS_TRAINED, SINGLE
from reports.claim_documents import Claims
from reports.claims import Finding, Judged
from reports.site import write_leaderboard, write_report
from reports.statistics import Estimate
from reports.submission import merge, submit

CHROMIUM = os.environ.get("LEAKBOARD_CHROMIUM") or shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the path, or its place in LEAKBOARD_CHROMIUM")

HOSTILE = ["<script>document.title='broken'</script>", "x" * 300, "Ünïcödé 防御 \u202eevil", "../../etc/passwd", "<img src=x onerror=alert(1)>"]
ATTACKS = {"inverting-gradients": ("blind", "informed"), "analytic": ("both",)}


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Two boards, three defenses and hostile ones, one cell that failed."""
    folder = tmp_path_factory.mktemp("site")
    cells = {
        ("digits", model, defense, seed): {
            "accuracies": [0.1, 0.2 + i / 10, 0.3 + i / 10],
            "attacks": {(epoch, attack, knowledge, mode): [0.05 + i / 5, 0.3 + i / 10, 0.2] * (5 if mode == SINGLE else 10) for mode in (AS_TRAINED, SINGLE)
                        for epoch in (0, 2) for attack, known in ATTACKS.items() for knowledge in known},
            "identifications": {(epoch, knowledge, mode): {"better": [0, i, 40 * i] * 5, "mu": [2.0 if i else None] * 15} for mode in (AS_TRAINED, SINGLE) for epoch in (0, 2) for knowledge in ("blind", "informed")}}
        for model in ("lenet", "mlp") for i, defense in enumerate(["none", "noise(std=0.01)", "pruning(p=0.9)", *HOSTILE][:4 if model == "mlp" else None])
        for seed in (0, 1)}
    run = write_cells(folder / "run", cells, epochs=2, attacks=list(ATTACKS), victims=15, failed=[("digits", "mlp", "broken", 0)], size=32, candidates=1000,
                      observed=(AS_TRAINED, SINGLE), trials={("digits", "lenet", name): [(1e-3, 2, 0.5, 0.5), (1e-2, 2, 0.7, 0.5), (1e-1, 2, 0.9, float("nan"))]
                                                             for name in ("none", "noise(std=0.01)", "pruning(p=0.9)", *HOSTILE)}, batch_size=2)
    finding = Finding("asr", HOSTILE[0], "informed", Estimate(0.5, 0.4, 0.6), "falls", at_most=0.1, undefended=Estimate(1.0, 0.9, 1.0))
    claims = [Judged(name, f"{name} et al.", "it holds, " * 20, "0 %", False, name, name, "falls", "differs in protocol", [finding] * 3) for name in HOSTILE]
    return write_report([run], folder / "report", Claims("leakboard-claims/1", claims)).parent


@pytest.fixture
def page(browser, request):
    """A page that notes console messages, errors and requests."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, **getattr(request, "param", {}))
    opened = context.new_page()
    opened.noted = []
    opened.on("console", lambda message: opened.noted.append(message.text))
    opened.on("pageerror", lambda error: opened.noted.append(str(error)))
    opened.on("requestfailed", lambda failed: opened.noted.append(f"failed: {failed.url}"))
    opened.on("request", lambda sent: opened.noted.append(f"left the machine: {sent.url}") if not sent.url.startswith(("file:", "data:")) else None)
    yield opened
    noted = opened.noted
    context.close()
    assert noted == []


def visit(page, path):
    page.goto(path.as_uri())
    page.wait_for_load_state("load")


def column(page, table, title):
    """The texts of a column of a table as shown."""
    headers = [text.strip() for text in table.locator("thead th").all_inner_texts()]
    return [text.strip() for text in table.locator(f"tbody tr td:nth-child({headers.index(title) + 1})").all_inner_texts()]


def test_tables_are_sorted_by_number(page, site):
    visit(page, site / "digits-lenet.html")
    families, table = (page.locator("table.data").nth(number) for number in (0, 1))
    before = column(page, table, "test accuracy")
    header = table.locator("thead th", has_text="test accuracy")
    header.get_by_role("button").focus()
    page.keyboard.press("Enter")
    expect(header).to_have_attribute("aria-sort", "ascending")
    after = column(page, table, "test accuracy")
    assert sorted(before) == sorted(after) and [float(text.split()[0]) for text in after] == sorted(float(text.split()[0]) for text in before)
    assert before != after
    ranks = families.locator("thead th", has_text="rank")
    ranks.click()
    expect(ranks).to_have_attribute("aria-sort", "ascending")
    numbers = [int(text) for text in column(page, families, "rank") if text != "–"]
    assert numbers == list(range(1, len(numbers) + 1)) and numbers


def test_tables_are_searched(page, site):
    visit(page, site / "digits-lenet.html")
    page.get_by_role("searchbox").nth(1).fill("pruning")
    table = page.locator("table.data").nth(1)
    expect(table.locator("tbody tr")).to_have_count(1)
    assert column(page, table, "defense")[0].startswith("pruning(p=0.9)")


def test_columns_can_be_chosen(page, site):
    visit(page, site / "digits-lenet.html")
    table = page.locator("table.data").nth(1)
    titles = [text.strip() for text in table.locator("thead th").all_inner_texts()]
    assert "seconds per epoch" not in titles and {"ASR, single", "top-1 of 100, single", "test accuracy"} <= set(titles)
    page.get_by_role("button", name="Columns").nth(1).click()
    page.get_by_role("button", name="seconds per epoch").click()
    expect(table.locator("thead th", has_text="seconds per epoch")).to_be_visible()


@pytest.mark.parametrize("width", [390, 1440])
def test_what_ranks_is_in_view(page, site, width):
    """Without scrolling, at both widths; further columns by choice, and where there is room."""
    page.set_viewport_size({"width": width, "height": 900})
    visit(page, site / "digits-lenet.html")
    for number, titles in ((0, ["rank", "family", "safe accuracy, as trained"]), (1, ["defense", "ASR, as trained", "top-1 of 100, as trained", "test accuracy"])):
        table = page.locator("table.data").nth(number)
        shown = [" ".join(text.split()) for text in table.locator("thead th").all_inner_texts()]
        assert set(titles) <= set(shown)
        for title in titles:
            for cell in (table.locator("thead th").nth(shown.index(title)), table.locator("tbody tr").first.locator("td").nth(shown.index(title))):
                box = cell.bounding_box()
                assert box["x"] >= 0 and box["x"] + box["width"] <= width, (title, box)
    assert ("strength" in page.locator("table.data").first.locator("thead").inner_text()) is (width == 1440)


@pytest.mark.parametrize(("width", "height"), [(390, 500), (1440, 300)])
def test_the_face_of_a_board_is_its_tradeoff(page, site, width, height):
    """Above all tables, as wide as there is room, for narrow screens a figure of its own, whose texts are as large as in the wide one."""
    page.set_viewport_size({"width": width, "height": 900})
    visit(page, site / "digits-lenet.html")
    image = page.locator("figure.tradeoff img")
    page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=image.element_handle())
    assert image.evaluate("image => image.currentSrc").endswith("-narrow.svg") is (width == 390)
    box = image.bounding_box()
    assert box["y"] < 400 and box["x"] + box["width"] <= width and box["height"] >= height
    assert box["width"] / image.evaluate("image => image.naturalWidth") > 0.95
    assert box["y"] < page.locator("table.data").first.bounding_box()["y"]
    assert "test accuracy" in image.get_attribute("alt").lower() and page.locator("figure.tradeoff figcaption a[href$='.csv']").count() == 1


def test_what_was_tried_is_a_table(page, site):
    visit(page, site / "defense-pruning-p=0.9.html")
    table = page.locator("table.heat").first
    assert [" ".join(text.split()) for text in table.locator("td").all_inner_texts()[:3]] == ["0.500", "0.700 ★ chosen", "diverged"] and table.locator("td.chosen").count() == 1
    colours = [cell.evaluate("cell => getComputedStyle(cell).backgroundColor") for cell in table.locator("td").all()]
    assert len(set(colours)) == 2  # the lowest and what diverged have none
    visit(page, site / "digits-lenet.html")
    expect(page.locator("table.heat").first).to_be_hidden()
    page.locator("summary", has_text="What was tried").click()
    expect(page.locator("table.heat").first).to_be_visible()


@pytest.mark.parametrize("page", [{"color_scheme": "dark"}, {"color_scheme": "light"}], indirect=True, ids=["dark", "light"])
def test_figures_are_as_dark_as_the_page(page, site):
    visit(page, site / "assets" / "digits-lenet-tradeoff.svg")
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") is (colour(page, "#patch_1 path", "fill")[0] < 60)
    paper, *texts = (colour(page, "#patch_1 path", "fill"), *page.evaluate(
        "[...document.querySelectorAll('text')].map(text => getComputedStyle(text).fill.match(/\\d+/g).map(Number))"))
    assert min(contrast(paper, text) for text in texts) >= 4.5


def colour(page, selector, what):
    return page.locator(selector).first.evaluate(f"part => getComputedStyle(part).{what}.match(/\\d+/g).map(Number)")


def contrast(first, second):
    """That of WCAG 2.1."""
    def luminance(parts):
        linear = [part / 255 / 12.92 if part / 255 <= 0.04045 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in parts[:3]]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", ["digits-lenet.html", "defense-pruning-p=0.9.html"])
def test_the_gallery_loads_sharp_pictures(page, site, name):
    visit(page, site / name)
    details = page.locator("details[name^=gallery]")
    assert details.count() >= 6  # of two modes
    for i in range(3):
        if details.nth(i).get_attribute("open") is None:
            details.nth(i).locator("summary").focus()
            page.keyboard.press("Enter")
        images = details.nth(i).locator("img")
        images.last.scroll_into_view_if_needed()
        assert images.count() >= 12
        page.wait_for_function("images => images.every(image => image.complete && image.naturalWidth > 0)", arg=images.element_handles())
        assert images.first.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
        box = images.last.bounding_box()
        assert box["width"] == box["height"] == 64


@pytest.mark.parametrize("width", [390, 1440])
def test_the_layout_holds(page, site, width):
    """No page is wider than the screen; only tables scroll, within themselves."""
    page.set_viewport_size({"width": width, "height": 900})
    for path in sorted(site.glob("*.html")):
        visit(page, path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name
        assert page.locator("h1").count() == 1


def test_hostile_names_run_nothing(page, site):
    for path in sorted(site.glob("*.html")):
        visit(page, path)
        assert page.title() != "broken"
        assert page.locator("main script, main img[src=x]").count() == 0
    visit(page, site / "digits-lenet.html")
    assert set(HOSTILE) <= {text.removesuffix(" ★") for text in page.locator("table.data").nth(1).locator("tbody a").all_text_contents()}


@pytest.mark.parametrize("page", [{"color_scheme": "light"}, {"color_scheme": "dark"}], indirect=True, ids=["light", "dark"])
def test_no_serious_violation_of_accessibility(page, site):
    from axe_playwright_python.sync_playwright import Axe
    for name in ("index.html", "digits-lenet.html", "digits-mlp.html", "defense-none.html", "how-to-read.html"):
        visit(page, site / name)
        response = Axe().run(page, options={"preload": False}).response  # no second look at style sheets: file: pages may not
        assert response["passes"]
        serious = [(violation["id"], [node["html"][:200] for node in violation["nodes"]][:3])
                   for violation in response["violations"] if violation["impact"] in ("serious", "critical")]
        assert serious == [], name


@pytest.mark.parametrize("page", [{"java_script_enabled": False}], indirect=True)
def test_without_scripts_the_tables_are_there(page, site):
    visit(page, site / "digits-lenet.html")
    headers = page.locator("table.data").nth(1).locator("thead th").all()
    titles = [header.inner_text() for header in headers if header.is_visible()]
    assert "ASR, single" in titles and "seconds per epoch" not in titles
    page.set_viewport_size({"width": 390, "height": 900})
    titles = [header.inner_text() for header in headers if header.is_visible()]
    assert "ASR, as trained" in titles and "ASR, single" not in titles


def test_a_merged_leaderboard(page, tmp_path):
    names = ["<script>alert(1)</script>", "Ben"]
    for i, name in enumerate(names):
        run = write_run(tmp_path / str(i), {("none", 0): [0.1, 0.7, 0.8], ("mine", 0): [0.1, 0.2, 0.3]}, {("none", 0): [0.9, 0.9], ("mine", 0): [0.1 * i, 0.9]})
        submit(run, name, "https://example.org/paper", tmp_path / f"{i}.json")
    index = write_leaderboard(merge([tmp_path / "0.json", tmp_path / "1.json"]), tmp_path / "site")
    visit(page, index)
    assert page.locator("main li a[href^='https://example.org']").count() == 2
    visit(page, index.parent / "digits-lenet.html")
    table = page.locator("table.data").first
    assert sorted(column(page, table, "entry")) == sorted(names * 2)
    assert page.locator("figure.tradeoff").count() == 1
