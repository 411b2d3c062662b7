"""Entries of contributors: made from a run, checked, and merged into one leaderboard."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from pydantic import TypeAdapter

from benchmark.errors import InputError
from benchmark.store.recording import write_atomically
from benchmark.store.results import FoundRun, find_run, trial_folder
from reports.boards import Board, Protocol
from reports.documents import EarlierDocument, Leaderboard, RunRecord, Submission, parse, read_document, to_json
from reports.entries import Entry
from reports.families import ranked
from reports.leaderboard import build

_ENTRY, _RECORD = TypeAdapter(Entry), TypeAdapter(RunRecord)


def submit(run: Path, name: str, paper: str, out: Path) -> Submission:
    """Write the entry of a run: aggregates, configuration, versions, and the hash of the raw tables.

    Args:
        run: a run folder.
        name: of the entry, as the leaderboard shows it.
        paper: an http or https address, or nothing.
        out: the JSON file; must not be there yet unless it is an entry.

    Raises:
        InputError: the run cannot be read or holds no finished cell, the name or address is not acceptable, or the file cannot be
            written or is something else.
    """
    read = find_run(run)
    boards = [section.board for section in build([read])]
    if not read.cells:
        raise InputError(f"{run} has no finished cell; there is nothing to submit")
    # Written and read once, so that what leaves here is what check takes.
    content = to_json(Submission("leakboard-entry/4", name, paper, boards, [record(read)]))
    entry: Submission = parse(content, f"cannot submit {run}")
    if out.exists():
        with contextlib.suppress(EarlierDocument):
            read_document(out)  # nothing but another document is replaced
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, content)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    return entry


def merge(paths: list[Path]) -> Leaderboard:
    """The leaderboard of many entries. Only what was measured by the same protocol shares a board.

    Raises:
        InputError: a file is no valid entry, or two entries have the same name.
    """
    names: dict[str, Path] = {}
    boards: dict[tuple[str, str, Protocol], Board] = {}
    runs = []
    for path in paths:
        document = read_document(path)
        if not isinstance(document, Submission):
            raise InputError(f"{path} is a leaderboard, not an entry; merge takes what submit writes")
        if document.name in names:
            raise InputError(f"{names[document.name]} and {path} are both named {document.name!r}; entries need names of their own")
        names[document.name] = path
        runs += document.runs
        for board in document.boards:
            key = _key(board)
            named = [replace(entry, submission=document.name, paper=document.paper) for entry in board.entries]
            families = [replace(family, submission=document.name) for family in board.families]
            before = boards.get(key, replace(board, families=[], entries=[], undefended=None))
            boards[key] = replace(board, families=before.families + families, entries=before.entries + named,
                                  undefended=before.undefended or board.undefended)
    return Leaderboard("leakboard-leaderboard/4", [ranked(board) for board in boards.values()], runs)


def check(path: Path, run: Path | None = None) -> str:
    """Check a document, and whether it follows from the tables of a run; what it holds, in a line.

    Raises:
        InputError: it is not valid, or differs from what the run's tables give.
    """
    document = read_document(path)
    if run is not None:
        _compare(path, document, run)
    entries = sum(len(board.entries) for board in document.boards)
    kind = f"entry {document.name!r}" if isinstance(document, Submission) else "leaderboard"
    verified = f", and what the tables of {run} give" if run is not None else ""
    return f"{path} is a valid {kind}: {len(document.boards)} boards, {entries} defenses on them{verified}"


def record(run: FoundRun) -> RunRecord:
    """Where and how the numbers of a run were made."""
    provenance, determinants = run.manifest.get("provenance", {}), run.manifest.get("determinants", {})
    names = ("started", "command", "python", "packages", "platform", "hardware", "threads", "revision")
    try:
        content = {
            "name": run.manifest.get("name"), "grid": run.manifest.get("grid"), "tables_sha256": _hash(run),
            **{key: provenance[key] for key in names if key in provenance},
            **{key: determinants[key] for key in ("leakboard", "device", "plugins") if key in determinants},
        }
    except TypeError as error:
        raise InputError(f"{run.folder / 'run.json'}: {error}") from error
    if isinstance(content.get("command"), str):
        content["command"] = _without_folders(content["command"])
    # Cells may have been measured on other machines than the one that wrote the run.
    parts = [info for cell in run.cells for info in cell.parts()]
    if hardware := sorted({str(info["hardware"]) for info in parts if "hardware" in info}):
        content["hardware"] = ", ".join(hardware)
    made: RunRecord = parse(json.dumps(content), str(run.folder / "run.json"), _RECORD)
    return made


def _without_folders(command: str) -> str:
    """The command, with the last part alone of absolute paths: where somebody's files lie is not for publication."""
    def name(word: str) -> str:
        option, equals, value = word.rpartition("=") if word.startswith("-") else ("", "", word)
        return option + equals + (PurePath(value).name if PurePath(value).is_absolute() else value)

    try:
        return shlex.join(map(name, shlex.split(command)))
    except ValueError:  # not from this program
        return command


def _hash(run: FoundRun) -> str:
    """SHA-256 over the raw tables of all finished trials and cells, in the order of their keys."""
    digest = hashlib.sha256()
    trials = [trial_folder(run.folder, key) / "trial.parquet" for key in sorted(run.manifest["trials"])]
    cells = sorted(run.cells, key=lambda cell: cell.folder.name)
    for table in [*filter(Path.is_file, trials), *(table for cell in cells for table in sorted(cell.tables()))]:
        content = table.read_bytes()
        digest.update(f"{table.relative_to(run.folder).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _compare(path: Path, document: Leaderboard | Submission, run: Path) -> None:
    """Every board and entry must follow from the run, and none may be left out."""
    read = find_run(run)
    if len(document.runs) != 1:
        raise InputError(f"{path} was made from {len(document.runs)} runs; --run checks a document of one")
    if record(read).tables_sha256 != document.runs[0].tables_sha256:
        raise InputError(f"{path}: runs.0.tables_sha256: not the hash of the tables of {run}; it was made from others")
    made = [section.board for section in build([read])]
    expected = {_key(board): {entry.defense: entry for entry in board.entries} for board in made}
    if _outline(document.boards) != _outline(made):
        raise InputError(f"{path}: boards: other data sets, models, protocols, families or defenses than those of {run}")
    for b, board in enumerate(document.boards):
        for e, entry in enumerate(board.entries):
            found = expected[_key(board)][entry.defense]
            if all(result.recovered is None for result in entry.attacks):  # of a version that did not count it
                found = replace(found, attacks=[replace(result, recovered=None) for result in found.attacks])
            if _numbers(entry) != _numbers(found):
                raise InputError(f"{path}: boards.{b}.entries.{e}: the numbers of {entry.defense} are not those that the tables "
                                 f"of {run} give")


def _outline(boards: list[Board]) -> dict[tuple[str, str, Protocol], tuple[str | None, dict[str, tuple[str | None, list[str]]]]]:
    """Of each board the undefended defense, and all families with their parameters and defenses."""
    return {_key(board): (board.undefended, {family.name: (family.parameter, family.defenses) for family in board.families})
            for board in boards}


def _key(board: Board) -> tuple[str, str, Protocol]:
    """What boards must have alike to be one."""
    return board.dataset, board.model, board.protocol


def _numbers(entry: Entry) -> str:
    """All that the tables determine, to six digits: sums of another order or machine differ behind these."""
    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rounded(item) for key, item in value.items()}
        if isinstance(value, list):
            return [rounded(item) for item in value]
        return f"{value:.6g}" if isinstance(value, float) else value

    alone = replace(entry, pareto=False, submission="", paper="")
    return json.dumps(rounded(_ENTRY.dump_python(alone)))
