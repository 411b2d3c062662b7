"""The pages in a real browser. Needs chromium on the path; .ci/run installs it."""

from __future__ import annotations

import os
import shutil

import pytest
from playwright.sync_api import expect, sync_playwright
from report_cases import write_cells, write_run

from reports.site import write_leaderboard, write_report
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
            "attacks": {(epoch, attack, knowledge): [0.05 + i / 5, 0.3 + i / 10, 0.2] * 5 for epoch in (0, 2) for attack, known in ATTACKS.items() for knowledge in known},
            "identifications": {(epoch, knowledge): {"better": [0, i, 40 * i] * 5, "mu": [2.0 if i else None] * 15} for epoch in (0, 2) for knowledge in ("blind", "informed")}}
        for model in ("lenet", "mlp") for i, defense in enumerate(["none", "noise(std=0.01)", "pruning(p=0.9)", *HOSTILE][:4 if model == "mlp" else None])
        for seed in (0, 1)}
    run = write_cells(folder / "run", cells, epochs=2, attacks=list(ATTACKS), victims=15, failed=[("digits", "mlp", "broken", 0)], size=32, candidates=1000)
    return write_report([run], folder / "report").parent


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
    table = page.locator("table.data").first
    before = column(page, table, "test accuracy")
    header = table.locator("thead th", has_text="test accuracy")
    header.get_by_role("button").focus()
    page.keyboard.press("Enter")
    expect(header).to_have_attribute("aria-sort", "ascending")
    after = column(page, table, "test accuracy")
    assert sorted(before) == sorted(after) and [float(text.split()[0]) for text in after] == sorted(float(text.split()[0]) for text in before)
    assert before != after
    ranks = table.locator("thead th", has_text="rank")
    ranks.click()
    expect(ranks).to_have_attribute("aria-sort", "ascending")
    assert column(page, table, "rank") == [str(i + 1) for i in range(8)]


def test_tables_are_searched(page, site):
    visit(page, site / "digits-lenet.html")
    page.get_by_role("searchbox").first.fill("pruning")
    table = page.locator("table.data").first
    expect(table.locator("tbody tr")).to_have_count(1)
    assert column(page, table, "defense")[0].startswith("pruning(p=0.9)")


def test_columns_can_be_chosen(page, site):
    visit(page, site / "digits-lenet.html")
    table = page.locator("table.data").first
    titles = [text.strip() for text in table.locator("thead th").all_inner_texts()]
    assert "seconds per epoch" not in titles and "ASR worst case" in titles
    page.get_by_role("button", name="Columns").first.click()
    page.get_by_role("button", name="seconds per epoch").click()
    expect(table.locator("thead th", has_text="seconds per epoch")).to_be_visible()


@pytest.mark.parametrize("name", ["digits-lenet.html", "defense-pruning-p=0.9.html"])
def test_the_gallery_loads_sharp_pictures(page, site, name):
    visit(page, site / name)
    details = page.locator("details")
    assert details.count() >= 3
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
    assert set(HOSTILE) <= {text.removesuffix(" ★") for text in page.locator("table.data").first.locator("tbody a").all_text_contents()}


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
    headers = page.locator("table.data").first.locator("thead th").all()
    titles = [header.inner_text() for header in headers if header.is_visible()]
    assert "ASR worst case" in titles and "seconds per epoch" not in titles


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
