"""What is drawn of one board: its figures and galleries. All that needs its tables and images happens here, so that boards can be
drawn in processes of their own, which hand back what the pages need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmark.store.tables import SUCCESS_SSIM
from reports import figures, text
from reports.boards import Board
from reports.drawing import Drawn, Palette
from reports.gallery import Gallery, Pictures
from reports.leaderboard import Section
from reports.summary_figure import VICTIMS, Excerpt, summary_figure
from reports.tradeoff_figure import Tradeoff, tradeoff_figure


@dataclass(frozen=True)
class Picture:
    """A figure of a page with its caption."""

    drawn: Drawn
    caption: str


@dataclass(frozen=True)
class BoardFiles:
    """What was drawn of a board; galleries by mode, those of defenses by their names and the mode."""

    tradeoff: Tradeoff | None = None
    curves: list[Picture] = field(default_factory=list)
    pools: list[Picture] = field(default_factory=list)
    galleries: dict[str, Gallery] = field(default_factory=dict)
    of_defenses: dict[tuple[str, str], Gallery] = field(default_factory=dict)
    excerpts: dict[str, Excerpt] = field(default_factory=dict)

    @classmethod
    def of_document(cls, board: Board, palette: Palette, out: Path, page: str) -> BoardFiles:
        """What can be drawn of a board without its tables and images."""
        return cls(tradeoff_figure(board, palette, out, f"assets/{page}-tradeoff"), *_figures(board, palette, out, page))


def draw_board(section: Section, palette: Palette, out: Path, page: str) -> BoardFiles:
    """Write the figures and pictures of a section into the assets of a report; their names start with that of its page."""
    board, asset = section.board, f"assets/{page}"
    galleries, of_defenses, excerpts = {}, {}, {}
    for mode in board.observed:
        pictures = Pictures(section, mode)
        for place, entry in enumerate(board.entries):
            if (gallery := pictures.of_defense(entry, out, f"{page}-{mode}-{place}")) is not None:
                of_defenses[entry.defense, mode] = gallery
        if (gallery := pictures.of_board(out, f"{page}-{mode}")) is not None:
            galleries[mode] = gallery
            excerpts[mode] = _excerpt(section, mode, pictures)
    curves, pools = _figures(board, palette, out, page)
    accuracies = _picture(figures.accuracy_curves(section, palette, out, f"{asset}-accuracy"),
                          "Test accuracy, with the range over seeds")
    similarities = [
        _picture(figures.ssim_distributions(section, mode, palette, out, f"{asset}-{mode}-ssim"),
                 f"How well images are rebuilt{_of(board, mode)}: at SSIM {SUCCESS_SSIM} (dotted) a curve gives the ASR; of an "
                 "attack with several settings, of each victim the likeliest reconstruction") for mode in board.observed]
    return BoardFiles(tradeoff_figure(board, palette, out, f"{asset}-tradeoff"),
                      [*_there([accuracies]), *curves, *_there(similarities)], pools, galleries, of_defenses, excerpts)


def _figures(board: Board, palette: Palette, out: Path, page: str) -> tuple[list[Picture], list[Picture]]:
    """What is drawn of a board's entries beside the trade-off: ASR over checkpoints, and identification by the size of the pool."""
    asset = f"assets/{page}"
    mode = board.ranked_by
    curves = [_picture(figures.asr_against_epoch(board, mode, palette, out, f"{asset}-epochs"),
                       f"Worst-case ASR against the epochs of training{_of(board, mode)}, with 95 % intervals")]
    pools = [_picture(figures.top_one_against_pool(board, mode, palette, out, f"{asset}-{mode}-pools"),
                      f"Top-1 against the number of candidates{_of(board, mode)}, of each defense at the checkpoint where it is "
                      "highest, with 95 % intervals; chance in grey, and dashed what a guarantee allows every attacker")
             for mode in board.observed]
    return _there(curves), _there(pools)


def _of(board: Board, mode: str) -> str:
    return f", gradients {text.mode(mode)}" if len(board.observed) > 1 else ""


def _there(pictures: list[Picture | None]) -> list[Picture]:
    return [picture for picture in pictures if picture is not None]


def _picture(drawn: Drawn | None, caption: str) -> Picture | None:
    return None if drawn is None else Picture(drawn, caption)


def _excerpt(section: Section, mode: str, pictures: Pictures) -> Excerpt:
    # The first checkpoint: untrained models leak most.
    board: Board = section.board
    epoch = board.checkpoints[0]
    curves = section.training.groupby(["defense", "epoch"])["test_accuracy"].mean()
    shown: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for entry in board.entries:
        if (example := pictures.example(entry.defense, epoch, VICTIMS)) is not None:
            shown[entry.defense] = example
    return Excerpt(epoch, {str(defense): curve.droplevel(0) for defense, curve in curves.groupby(level=0)}, shown)


@dataclass(frozen=True)
class Summary:
    """What a figure over the boards of a model shows by gradients of one mode, and its file."""

    boards: list[tuple[Board, Excerpt]]
    mode: str
    file: str

    def draw(self, palette: Palette, out: Path) -> Picture:
        """Write it."""
        return Picture(summary_figure(self.boards, self.mode, palette, out, self.file),
                       f"{self.boards[0][0].model}, gradients {text.mode(self.mode)}: what is rebuilt under each defense")


def summaries(made: Sequence[tuple[Board, BoardFiles]]) -> list[Summary]:
    """One of each model and mode over the data sets; of several protocols of a data set of the first."""
    found = []
    for number, model in enumerate(dict.fromkeys(board.model for board, _ in made)):
        for mode in dict.fromkeys(mode for board, _ in made for mode in board.observed):
            chosen: dict[str, tuple[Board, Excerpt]] = {}
            for board, files in made:
                if board.model == model and mode in files.excerpts:
                    chosen.setdefault(board.dataset, (board, files.excerpts[mode]))
            if chosen:
                found.append(Summary(list(chosen.values()), mode, f"assets/summary-{number}-{mode}"))
    return found
