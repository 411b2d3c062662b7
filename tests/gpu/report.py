"""What was found, as JSON and as Markdown; both are written anew after each row, so that an abort loses nothing."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from gpu.checks import BAD, FAILED, MEASURED, MISSED, NOT_RUN, PASSED, SKIPPED, Check

#: Of the JSON. Its keys:
#:
#: - ``format``; ``started`` (UTC); ``seconds`` since then; ``budget_seconds``; ``device``; ``tiny`` (sizes of a rehearsal)
#: - ``machine``: GPU, driver, memory in bytes, processor, Python; ``versions``: of packages, null where missing
#: - ``missing``: by package what is skipped without it
#: - ``peaks``: bytes_per_second and flops_per_second that the device reached, once measured
#: - ``checks``: a list of ``name``, ``question``, ``status`` (running, or a word of ``checks``), ``reason``, ``seconds``,
#:   ``began`` (seconds since 1970) and the seconds ``allowed``, ``traceback`` where it failed, and ``rows``: ``name``, ``found``, ``status``, ``tolerance``, ``reason``, ``values``, ``seconds``
#: - ``summary``: how many rows are of each status, and ``checks``: how many checks
FORMAT = 1
RUNNING = "running"
#: Seconds between two times that the files are written while a check goes on.
_WRITE_EVERY = 1.0


class Report:
    """The report of a run, in two files.

    Args:
        path: without an ending: ``.json`` and ``.md`` are put to it.
        content: what was written before, to go on with.
    """

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path, self.content = path, content
        self._written = 0.0
        self._began = time.monotonic() - content.get("seconds", 0.0)

    @classmethod
    def begun(cls, path: Path, **facts: Any) -> Report:
        """A new one."""
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return cls(path, {"format": FORMAT, "started": started, "seconds": 0.0, **facts, "machine": {}, "versions": {}, "missing": {},
                          "peaks": {}, "checks": []})

    @classmethod
    def read(cls, path: Path) -> Report:
        """One that another process has begun."""
        return cls(path, json.loads(path.with_suffix(".json").read_text()))

    def begin(self, check: Check) -> dict[str, Any]:
        """The entry of a check that begins."""
        entry: dict[str, Any] = {"name": check.name, "question": check.question, "status": RUNNING, "reason": "", "seconds": 0.0, "rows": [],
                                 "began": time.time(), "allowed": check.seconds}
        self.content["checks"].append(entry)
        self.write(now=True)
        return entry

    def end(self, entry: dict[str, Any], status: str, reason: str = "") -> None:
        """A check is over."""
        entry.update(status=status, reason=reason)
        self.write(now=True)

    def done(self) -> set[str]:
        """The names of the checks that are over."""
        return {entry["name"] for entry in self.content["checks"] if entry["status"] != RUNNING}

    def hangs(self, grace: float) -> bool:
        """Whether what is under way has gone on for longer than it may, by so many seconds."""
        return any(entry["status"] == RUNNING and time.time() > entry["began"] + entry["allowed"] + grace for entry in self.content["checks"])

    def fail_running(self, reason: str) -> None:
        """What was under way when its process ended has failed."""
        for entry in self.content["checks"]:
            if entry["status"] == RUNNING:
                self.end(entry, FAILED, reason)

    @property
    def running(self) -> bool:
        """Whether a check is under way, or was when its process ended."""
        return any(entry["status"] == RUNNING for entry in self.content["checks"])

    @property
    def bad(self) -> bool:
        """Whether a check failed or missed something."""
        return any(entry["status"] in BAD for entry in self.content["checks"])

    def write(self, *, now: bool = False) -> None:
        """Both files, whole or as they were; at most once a second unless ``now``."""
        if not now and time.monotonic() - self._written < _WRITE_EVERY:
            return
        self._written = time.monotonic()
        self.content["seconds"] = round(time.monotonic() - self._began, 3)
        self.content["summary"] = summary(self.content)
        for ending, text in ((".json", json.dumps(_plain(self.content), indent=1) + "\n"), (".md", markdown(self.content))):
            target = self.path.with_suffix(ending)
            fresh = target.with_name(target.name + ".new")
            fresh.write_text(text)
            fresh.replace(target)


def _plain(value: Any) -> Any:
    """As JSON has it, which knows no infinity: numbers that are not finite become texts."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value


def summary(content: dict[str, Any]) -> dict[str, Any]:
    """How many rows and checks are of each status."""
    rows = Counter(row["status"] for entry in content["checks"] for row in entry["rows"])
    return {**rows, "checks": dict(Counter(entry["status"] for entry in content["checks"]))}


def markdown(content: dict[str, Any]) -> str:
    """The report to read."""
    machine, versions = content["machine"], content["versions"]
    size = " (a rehearsal at tiny sizes)" if content.get("tiny") else ""
    lines = [f"# GPU report{size}", "",
             f"Device {content.get('device')}, begun {content['started']}, {content['seconds']:.0f} of {content.get('budget_seconds', 0):.0f} s.",
             "", "| machine | |", "| --- | --- |"]
    lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in machine.items()]
    lines += [f"| {_cell(name)} | {_cell(value or 'missing')} |" for name, value in versions.items()]
    lines += [f"| {_cell(name)} | {value:.4g} |" for name, value in content["peaks"].items()]
    if content["missing"]:
        lines += ["", "Missing: " + "; ".join(f"{name} ({what})" for name, what in content["missing"].items()) + "."]
    lines += ["", "## Checks", "", "| check | status | passed | missed | measured | skipped | not run | s |", "| --- " * 8 + "|"]
    for entry in content["checks"]:
        counts = Counter(row["status"] for row in entry["rows"])
        numbers = " | ".join(str(counts[status]) for status in (PASSED, MISSED, MEASURED, SKIPPED, NOT_RUN))
        lines.append(f"| {entry['name']} | {_marked(entry['status'])} | {numbers} | {entry['seconds']:.1f} |")
    for entry in content["checks"]:
        lines += ["", f"## {entry['name']}", "", f"{entry['question']} {_marked(entry['status'])}"
                  + (f": {_cell(entry['reason'])}" if entry["reason"] else "")]
        if entry["rows"]:
            lines += ["", "| | found | asked | status | s |", "| --- | --- | --- | --- | --- |"]
        for row in entry["rows"]:
            status = _marked(row["status"]) + (f": {row['reason']}" if row["reason"] else "")
            lines.append("| " + " | ".join(_cell(text) for text in (
                row["name"], row["found"], row["tolerance"], status, f"{row['seconds']:.1f}")) + " |")
        if entry.get("traceback"):
            lines += ["", "```", entry["traceback"].rstrip(), "```"]
    return "\n".join(lines) + "\n"


def _marked(status: str) -> str:
    return f"**{status}**" if status in (*BAD, RUNNING) else status


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


__all__ = ["FORMAT", "MEASURED", "RUNNING", "Report", "markdown", "summary"]
