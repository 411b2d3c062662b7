"""The pages of a report."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2

from benchmark.store.tables import SUCCESS_SSIM
from reports import figures, table_library, text
from reports.columns import Column, Value, attack_table, board_columns, entry_columns, identification_table, overview
from reports.documents import Leaderboard
from reports.drawing import Palette, palette
from reports.entries import Board, Entry
from reports.gallery import Gallery, Pictures
from reports.leaderboard import Section
from reports.summary_figure import summary_figure


@dataclass(frozen=True)
class Table:
    """A table of a page: columns with title, meaning and whether they are shown at first; rows of values."""

    caption: str
    columns: list[tuple[str, str, bool]]
    rows: list[list[Value]]
    links: list[str]
    colours: list[str]


@dataclass(frozen=True)
class Picture:
    """A figure of a page: its file without ending, the text for who cannot see it, its caption, and whether it takes the whole
    width."""

    file: str
    alternative: str
    caption: str
    wide: bool = False


class Pages:
    """The pages of one report."""

    def __init__(self, document: Leaderboard, sections: list[Section], out: Path) -> None:
        self.document, self.sections, self.out = document, sections, out
        self.boards = [section.board for section in sections]
        entries = [(entry.defense, entry.submission) for board in self.boards for entry in board.entries]
        # By name, so that a colour does not depend on who leads.
        undefended = {board.undefended for board in self.boards}
        defenses = sorted({defense for defense, _ in entries}, key=lambda name: (name not in undefended, name))
        self.palette: Palette = palette(defenses)
        names = _Names()
        self.titles = _titles(self.boards)
        self.board_pages = [names.unique(f"{board.dataset}-{board.model}") for board in self.boards]
        self.defense_pages = {key: names.unique("defense-" + "-".join(filter(None, key))) for key in dict.fromkeys(entries)}
        self.environment = jinja2.Environment(
            loader=jinja2.PackageLoader("reports"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
            lstrip_blocks=True)
        self.environment.globals.update(
            version=version("leakboard"), success=SUCCESS_SSIM, protocol=text.protocol, unfinished=text.UNFINISHED,
            only_blind=text.ONLY_BLIND, not_identified=text.NOT_IDENTIFIED, identification=text.IDENTIFICATION,
            overview_text=text.overview(self.boards), identified=any(board.candidates for board in self.boards),
            boards=list(zip(self.boards, self.board_pages, self.titles, strict=True)))

    def write(self) -> None:
        self._assets()
        pictures = [Pictures(section) for section in self.sections]
        galleries: dict[tuple[str, str], list[Gallery | None]] = {key: [] for key in self.defense_pages}
        for section, of_section, page, title in zip(self.sections, pictures, self.board_pages, self.titles, strict=True):
            for place, entry in enumerate(section.board.entries):
                gallery = of_section.of_defense(entry, self.out, f"{page}-{place}")
                galleries[entry.defense, entry.submission].append(gallery)
            self._page(page, "board.html.j2", title=title, board=section.board, figures=self._figures(section, page),
                       table=self._board_table(section.board), attacks=self._attack_table(section.board.entries),
                       identifications=self._identification_table(section.board.entries),
                       pools=self._pool_figure(section.board, page),
                       gallery=of_section.of_board(self.out, page))
        for key, entries in self._by_defense().items():
            self._defense_page(key, entries, galleries[key])
        self._page("how-to-read", "reading.html.j2", title="How to read this")
        self._page("index", "index.html.j2", title="Leakboard", overview=self._overview(), runs=self.document.runs,
                   figures=self._summaries(pictures), papers=self._papers())

    def _assets(self) -> None:
        templates = self.environment.loader
        assert templates is not None
        ours = {name: templates.get_source(self.environment, name)[0] for name in ("style.css", "leakboard.js")}
        for name, content in {**ours, "datatables.js": table_library.script(), "datatables.css": table_library.style()}.items():
            (self.out / "assets" / name).write_text(content, encoding="utf-8")

    def _page(self, name: str, template: str, **content: Any) -> None:
        html = self.environment.get_template(template).render(page=name, **content)
        (self.out / f"{name}.html").write_text(html, encoding="utf-8")

    def _defense_page(self, key: tuple[str, str], entries: list[Entry | None], galleries: list[Gallery | None]) -> None:
        places = zip(self.boards, self.board_pages, self.titles, entries, strict=True)
        found = [(board, board_page, title, entry) for board, board_page, title, entry in places if entry is not None]
        results = [
            {"board": board, "page": board_page, "title": title, "entry": entry, "gallery": gallery,
             "attacks": self._attack_table([entry], own=True), "identifications": self._identification_table([entry], own=True)}
            for (board, board_page, title, entry), gallery in zip(found, galleries, strict=True)]
        columns = [c for c in entry_columns(found[0][0]) if c.title not in ("defense", "all parameters")]
        rows = [[Value(title), *(_column(board, c).value(entry) for c in columns)] for board, _, title, entry in found]
        # Shown where it is on any of the boards.
        header = [("data set, model", "", True),
                  *((c.title, c.meaning, any(_column(board, c).shown for board, *_ in found)) for c in columns)]
        results_table = Table("All results", header, rows, [f"{board_page}.html" for _, board_page, _, _ in found], [])
        self._page(self.defense_pages[key], "defense.html.j2", title=" – ".join(filter(None, key)), submission=key[1],
                   paper=next((entry.paper for *_, entry in found if entry.paper), ""),
                   parameters=next((entry.parameters for *_, entry in found if entry.parameters), {}), table=results_table,
                   results=results)

    def _board_table(self, board: Board) -> Table:
        columns = board_columns(board)
        return Table("Ranked by worst-case ASR, then by test accuracy", [(c.title, c.meaning, c.shown) for c in columns],
                     [[c.value(entry) for c in columns] for entry in board.entries],
                     [self._link(entry) for entry in board.entries], [self._colour(entry) for entry in board.entries])

    def _attack_table(self, entries: list[Entry], own: bool = False) -> Table:
        header, rows = attack_table(entries)
        links = [self._link(entry) for entry in entries for _ in entry.attacks]
        colours = [self._colour(entry) for entry in entries for _ in entry.attacks]
        if own:
            header, rows, links, colours = header[1:], [row[1:] for row in rows], [], []
        return Table("Every attack at every checkpoint", [(title, "", True) for title in header], rows, links, colours)

    def _identification_table(self, entries: list[Entry], own: bool = False) -> Table:
        header, rows = identification_table(entries)
        links = [self._link(entry) for entry in entries for _ in (*entry.identifications, *entry.unidentified)]
        colours = [self._colour(entry) for entry in entries for _ in (*entry.identifications, *entry.unidentified)]
        if own:
            header, rows, links, colours = header[1:], [row[1:] for row in rows], [], []
        return Table("Identification at every checkpoint", header, rows, links, colours)

    def _pool_figure(self, board: Board, page: str) -> list[Picture]:
        file = f"assets/{page}-pools"
        if not figures.top_one_against_pool(board, self.palette, self.out / file):
            return []
        return [Picture(file, "Share of victims identified under each defense, against the number of candidates, both on "
                        f"logarithmic axes: {text.extremes(board)}; the numbers are in the table below",
                        "Top-1 against the number of candidates, of each defense at the checkpoint where it is highest, with 95 % "
                        "intervals; chance in grey, and dashed what a guarantee allows every attacker")]

    def _overview(self) -> Table:
        """A row per defense, and of each board its worst-case ASR and test accuracy."""
        rows, links, colours = [], [], []
        for known, values in overview(self.boards):
            rows.append([Value(text.labelled(known)), *values])
            links.append(self._link(known))
            colours.append(self._colour(known))
        columns = [(title, text.protocol(board), True) for board, title in zip(self.boards, self.titles, strict=True)]
        return Table(text.overview(self.boards), [("defense", "", True), *columns], rows, links, colours)

    def _by_defense(self) -> dict[tuple[str, str], list[Entry | None]]:
        """Of each defense its entry on each board."""
        found = [{(entry.defense, entry.submission): entry for entry in board.entries} for board in self.boards]
        return {key: [entries.get(key) for entries in found] for key in self.defense_pages}

    def _papers(self) -> list[tuple[str, str]]:
        return sorted({(entry.submission, entry.paper) for board in self.boards for entry in board.entries if entry.submission})

    def _summaries(self, pictures: list[Pictures]) -> list[Picture]:
        drawn = []
        for number, model in enumerate(dict.fromkeys(board.model for board in self.boards)):
            # Of several protocols of a data set the first; a figure compares data sets.
            chosen: dict[str, int] = {}
            for i, board in enumerate(self.boards):
                if board.model == model and self.sections[i].cells:
                    chosen.setdefault(board.dataset, i)
            file = f"assets/summary-{number}"
            places = chosen.values()
            if summary_figure([self.sections[i] for i in places], [pictures[i] for i in places], self.palette, self.out / file):
                drawn.append(Picture(
                    file, f"{model}: originals of each data set, and per defense its training curves and the worst case's "
                    "reconstructions; the numbers are in the table", f"{model}: what is rebuilt under each defense"))
        return drawn

    def _figures(self, section: Section, page: str) -> list[Picture]:
        told = "; the numbers are in the tables of this page"
        candidates = [
            (figures.accuracy_against_asr(section.board, self.palette, self.out / f"assets/{page}-front"), "front",
             "Test accuracy of each defense against its worst-case attack success rate" + told,
             "Test accuracy against worst-case ASR, with 95 % intervals and the Pareto front; the best corner is the upper left"),
            (figures.accuracy_curves(section, self.palette, self.out / f"assets/{page}-accuracy"), "accuracy",
             "Test accuracy of each defense over the epochs of training" + told, "Test accuracy, with the range over seeds"),
            (figures.asr_against_epoch(section.board, self.palette, self.out / f"assets/{page}-epochs"), "epochs",
             "Worst-case attack success rate of each defense against the epochs of training" + told,
             "Worst-case ASR against the epochs of training, with 95 % intervals"),
            (figures.ssim_distributions(section, self.palette, self.out / f"assets/{page}-ssim"), "ssim",
             "Share of images rebuilt at least as well as an SSIM, per attack, what it knew, and defense" + told,
             f"How well images are rebuilt: at SSIM {SUCCESS_SSIM} (dotted) a curve gives the ASR; of an attack with several "
             "settings, of each victim the likeliest reconstruction"),
        ]
        return [Picture(f"assets/{page}-{name}", alternative, caption, wide=name == "ssim")
                for drawn, name, alternative, caption in candidates if drawn]

    def _link(self, entry: Entry) -> str:
        return f"{self.defense_pages[entry.defense, entry.submission]}.html"

    def _colour(self, entry: Entry) -> str:
        return "#" + "".join(f"{round(255 * part):02x}" for part in self.palette.colours[entry.defense])


def _titles(boards: list[Board]) -> list[str]:
    """The titles of boards; those of one data set and model that were measured by several protocols are numbered."""
    count = Counter(board.title for board in boards)
    seen: Counter[str] = Counter()
    titles = []
    for board in boards:
        seen[board.title] += 1
        titles.append(f"{board.title}, protocol {seen[board.title]}" if count[board.title] > 1 else board.title)
    return titles


class _Names:
    """File names of pages: readable, of bounded length, and each used once, also where letter case does not count."""

    def __init__(self) -> None:
        self._used = {"index", "how-to-read"}

    def unique(self, text: str) -> str:
        name = re.sub(r"[^a-z0-9.=]+", "-", text.lower()).strip("-.")[:60] or "page"
        candidate, number = name, 1
        while candidate in self._used:
            number += 1
            candidate = f"{name}-{number}"
        self._used.add(candidate)
        return candidate


def _column(board: Board, like: Column) -> Column:
    return next(column for column in entry_columns(board) if column.title == like.title)
