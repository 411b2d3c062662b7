"""The pages of a report."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2

from benchmark.store.tables import RECOVERED_PSNR, SUCCESS_SSIM
from reports import claim_documents, table_library, text
from reports.board_files import BoardFiles, Picture
from reports.boards import Board, Thresholds
from reports.claim_documents import Claims
from reports.documents import Leaderboard
from reports.entries import Entry
from reports.gallery import Gallery
from reports.heat_map import heat_maps
from reports.page_tables import Tables, body, breakable, claim_table
from reports.plan import Plan


class Pages:
    """The pages of one report; ``files`` are what was drawn of its boards, ``summaries`` of its models,
    and ``claims`` those that were tested, where there are any."""

    def __init__(self, document: Leaderboard, files: Sequence[BoardFiles], summaries: Sequence[Picture], plan: Plan, out: Path,
                 claims: Claims | None = None) -> None:
        self.document, self.boards, self.files, self.plan, self.out = document, document.boards, files, plan, out
        self.summaries, self.claims = summaries, claims
        self.tables = Tables(plan)
        self.environment = jinja2.Environment(
            loader=jinja2.PackageLoader("reports"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
            lstrip_blocks=True)
        self.environment.filters.update(body=body, name=breakable)
        self.environment.globals.update(
            version=version("leakboard"), success=SUCCESS_SSIM, recovered=RECOVERED_PSNR, protocol=text.protocol,
            cautions=text.cautions, mode=text.mode, identification=text.IDENTIFICATION,
            tuning_costs=text.TUNING_COSTS, thresholds=Thresholds(),
            claims=claims, claims_reading=claim_documents.READING, claim_verdict=claim_documents.verdict,
            described=claim_documents.described,
            overview_text=text.overview(self.boards), identified=any(board.candidates for board in self.boards),
            boards=list(zip(self.boards, plan.board_pages, plan.titles, strict=True)))

    def write(self) -> None:
        self._assets()
        for board, drawn, page, title in zip(self.boards, self.files, self.plan.board_pages, self.plan.titles, strict=True):
            self._page(page, "board.html.j2", title=title, board=board, files=drawn, table=self.tables.families(board),
                       strengths=self.tables.strengths(board), attacks=self.tables.attacks(board.entries),
                       identifications=self.tables.identifications(board.entries),
                       tuning=[heat_map for entry in board.entries for heat_map in heat_maps(entry)])
        for key, entries in self._by_defense().items():
            self._defense_page(key, entries)
        if self.claims is not None:
            self._page("claims", "claims.html.j2", title="Claims", table=claim_table(self.claims))
        self._page("how-to-read", "reading.html.j2", title="How to read this")
        self._page("index", "index.html.j2", title="Leakboard", overview=self.tables.overview(self.boards), runs=self.document.runs,
                   drawn=[files.tradeoff for files in self.files], summaries=self.summaries, papers=self._papers())

    def _assets(self) -> None:
        templates = self.environment.loader
        assert templates is not None
        ours = {name: templates.get_source(self.environment, name)[0] for name in ("style.css", "leakboard.js")}
        for name, content in {**ours, "datatables.js": table_library.script(), "datatables.css": table_library.style()}.items():
            (self.out / "assets" / name).write_text(content, encoding="utf-8")

    def _page(self, name: str, template: str, **content: Any) -> None:
        html = self.environment.get_template(template).render(page=name, **content)
        (self.out / f"{name}.html").write_text(html, encoding="utf-8")

    def _defense_page(self, key: tuple[str, str], entries: list[Entry | None]) -> None:
        places = zip(self.boards, self.plan.board_pages, self.plan.titles, self.files, entries, strict=True)
        found = [(board, page, title, files, entry) for board, page, title, files, entry in places if entry is not None]
        results = [
            {"board": board, "page": page, "title": title, "entry": entry, "galleries": self._galleries(board, files, entry),
             "tuning": heat_maps(entry), "attacks": self.tables.attacks([entry], own=True),
             "identifications": self.tables.identifications([entry], own=True)}
            for board, page, title, files, entry in found]
        self._page(self.plan.defense_pages[key], "defense.html.j2", title=" – ".join(filter(None, key)), submission=key[1],
                   paper=next((entry.paper for *_, entry in found if entry.paper), ""),
                   parameters=next((entry.parameters for *_, entry in found if entry.parameters), {}), results=results,
                   table=self.tables.of_defense([(board, page, title, entry) for board, page, title, _, entry in found]))

    def _galleries(self, board: Board, files: BoardFiles, entry: Entry) -> list[tuple[str, Gallery]]:
        return [(mode, files.of_defenses[entry.defense, mode]) for mode in board.observed
                if not entry.submission and (entry.defense, mode) in files.of_defenses]

    def _by_defense(self) -> dict[tuple[str, str], list[Entry | None]]:
        """Of each defense its entry on each board."""
        found = [{(entry.defense, entry.submission): entry for entry in board.entries} for board in self.boards]
        return {key: [entries.get(key) for entries in found] for key in self.plan.defense_pages}

    def _papers(self) -> list[tuple[str, str]]:
        return sorted({(entry.submission, entry.paper) for board in self.boards for entry in board.entries if entry.submission})
