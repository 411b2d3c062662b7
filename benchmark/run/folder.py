"""The folder of a run: it is made for a grid, or continued by the same one, by one process at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmark.errors import InputError
from benchmark.store import layout, recording, results, run_lock


def claim(out: Path, manifest: dict[str, Any]) -> FileLock:
    """Make the run folder, or check that it holds the same grid and note what was added; returns its lock, taken."""
    try:
        new = not (out / "run.json").exists()
        if new and out.exists() and (
                not out.is_dir() or set(out.iterdir()) - {out / run_lock.NAME, *recording.drafts(out)}):
            raise InputError(f"the output folder {out} exists and is not a run of leakboard; name another with --out")
        out.mkdir(parents=True, exist_ok=True)
        held = run_lock.lock(out)
        try:
            existing = results.read_manifest(out) if (out / "run.json").exists() else None
            if existing is not None:
                _require_continuation(out, existing, manifest)
            recording.remove_drafts(out)
            if existing is None or any(existing.get(added) != manifest[added] for added in ("attacks", "identifications")):
                recording.write_atomically(out / "run.json", json.dumps(manifest, indent=1))
            for folder in (layout.TRIALS_FOLDER, layout.CELLS_FOLDER):  # behind run.json, without which a folder is no run
                (out / folder).mkdir(exist_ok=True)
        except BaseException:
            held.release()
            raise
        return held
    except OSError as error:
        raise InputError(f"cannot write the output folder {out}: {error.strerror or error}") from error


def _require_continuation(out: Path, existing: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse a grid that is not that of the folder. It may have further attacks, also of further plugins, further numbers of images
    behind a gradient, and identification."""
    there, now = existing["determinants"], wanted["determinants"]
    if isinstance(there.get("plugins"), dict):
        now = {**now, "plugins": {name: now["plugins"].get(name) for name in there["plugins"]}}
    # Data sets are compared by name and fingerprint, since where they lie may change, and defenses by what they are.
    before, after = ({**of["grid"], "datasets": list(of["determinants"].get("fingerprints") or ()),
                      "defenses": {family["name"]: family["defenses"] for family in of["families"]}} for of in (existing, wanted))
    for what, name, was, given in (("the attack", "attack", before.get("attacks"), after["attacks"]),
                                   ("evaluation.observed", "observed", *(_evaluation(of, "observed") for of in (before, after)))):
        gone = [value for value in was if value not in given] if isinstance(was, list) else []
        if gone:
            raise InputError(f"the output folder {out} was made by another grid: it has {what} {gone[0]}, which this one lacks; it "
                             f"can be added to a run, not taken away: name it too (--{name}), or another folder with --out")
    attacked, seeds = (_evaluation(of, "attack_seeds") or of["seeds"] for of in (before, after))
    if before.get("attacks") and before["seeds"] == after["seeds"] and set(attacked) - set(seeds):
        raise InputError(f"the output folder {out} was made by another grid: evaluation.attack_seeds was {attacked} there and is "
                         f"{seeds} now; seeds can be added to those that are attacked, not taken away")
    candidates, asked = (_evaluation(of, "candidates") for of in (before, after))
    if candidates not in (0, asked):
        raise InputError(f"the output folder {out} was made by another grid: evaluation.candidates was {candidates!r} there and is "
                         f"{asked} now; identification can be added to a run, not changed or taken away: give --candidates "
                         f"{candidates!r}, or name another folder with --out")
    for of in (before, after):
        of["attacks"] = None
        of["evaluation"] = {"lpips": False, **of["evaluation"], "candidates": None, "observed": None, "attack_seeds": None}
    _require_same(out, before, after, "grid")
    _require_same(out, there, now, "determinants")


def _evaluation(grid: dict[str, Any], name: str) -> Any:
    return grid["evaluation"].get(name)


def _require_same(out: Path, existing: dict[str, Any], wanted: dict[str, Any], section: str) -> None:
    for key in sorted(existing.keys() | wanted.keys()):
        if existing.get(key) != wanted.get(key):
            raise InputError(f"the output folder {out} was made by another grid: {section} {key} was {existing.get(key)!r} "
                             f"there and is {wanted.get(key)!r} now; name another folder with --out")
