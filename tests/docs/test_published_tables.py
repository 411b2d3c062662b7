"""The tables of the published board are what its entries give."""

from __future__ import annotations

import json
import re

import published_tables
import pytest
from published_tables import PAGES, main, table, with_tables


def test_the_pages_have_the_tables_of_their_entries(capsys):
    assert all("<!-- table: " in page.read_text() for page in PAGES)
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_another_figure_is_found_and_mended(tmp_path, monkeypatch, capsys):
    page = tmp_path / "README.md"
    true = PAGES[0].read_text()
    page.write_text(true.replace("| `precode(K=64)` | 0.00 |", "| `precode(K=64)` | 0.01 |"))
    monkeypatch.setattr(published_tables, "PAGES", (page,))
    monkeypatch.setattr(published_tables, "_ROOT", tmp_path)
    assert page.read_text() != true and main(["--check"]) == 1
    assert capsys.readouterr().err == "README.md: a table is not what its entries give; run python docs/published_tables.py\n"
    assert main([]) == 0 and page.read_text() == true


def test_a_cell_by_hand():
    """Of the entry as it lies there, without our reading of entries: the higher of two checkpoints, and the better of two attackers."""
    document = json.loads((published_tables._ENTRIES / "cifar10-lenet-rebuilt.json").read_text())
    (entry,) = (each for each in document["boards"][0]["entries"] if each["defense"] == "cvb(beta=0.1)")
    rebuilt = max(result["asr"]["mean"] for result in entry["attacks"] if result["kind"] != "oracle bound" and result["asr"] is not None)
    identified = max(top["rate"]["mean"] for result in entry["identifications"] for top in result["top1"] if top["size"] == 100)
    (line,) = (line for line in table("summary", ["cifar10-lenet-rebuilt"]).splitlines() if "cvb" in line)
    assert line.split(" | ")[2:5] == [f"{rebuilt:.2f}", f"{identified:.2f}", f"{entry['accuracy']['mean']:.3f}"]


def test_the_strongest_attack_by_hand():
    document = json.loads((published_tables._ENTRIES / "cifar10-lenet-rebuilt.json").read_text())
    (entry,) = (each for each in document["boards"][0]["entries"] if each["defense"] == "precode(bottleneck_size=64)")
    rates = {result["attack"]: result["asr"]["mean"] for result in entry["attacks"] if result["kind"] == "attack" and result["asr"]
             and result["checkpoint_epoch"] == 10 and result["knowledge"] == "informed"}
    (line,) = (line for line in table("strongest", ["cifar10-lenet-rebuilt"]).splitlines() if "precode" in line)
    rate, name = line.split(" | ")[2].rstrip(" |").split(", ", 1)
    assert float(rate) == round(max(rates.values()), 2)
    name, _, rest = name.strip("`").partition("(")
    assert rates[f"{name}(iterations=300{(rest and ', ' + rest) or ')'}"] == max(rates.values())


def test_the_row_of_a_claim_by_hand():
    """Of the document as it lies there; the verdict on two defenses of one claim names both, and the claim is said in a few words."""
    document = json.loads((published_tables._PUBLISHED / "claims.json").read_text())
    found = {claim["name"]: {(each["figure"], each["attacker"], each["of"]): each for each in claim["findings"]} for claim in document["claims"]}
    rows = {row.split(" | ")[0][2:]: row.strip("| ").split(" | ")[1:] for row in table("claims", []).splitlines()}
    blind, informed = (found["cvb"]["asr", who, "cvb(beta=0.1)"] for who in ("blind", "informed"))
    rates = (blind["undefended"]["mean"], blind["value"]["mean"], informed["value"]["mean"])
    change = found["cvb"]["change", "informed", "cvb(beta=0.1)"]["value"]["mean"]
    verdict = next(claim["verdict"] for claim in document["claims"] if claim["name"] == "cvb")
    assert rows["CVB prevents leakage"] == [", ".join(f"{rate:.2f}" for rate in rates), "1.00", f"{change:+.2f}", verdict]
    (both,) = (row for headline, row in rows.items() if headline.startswith("simple post-processing"))
    assert re.fullmatch(r"`noise\(std=0.01\)` 1.00, –, 0.\d\d; `pruning\(p=0.9\)` 1.00, –, 1.00", both[0])


def test_a_kind_that_there_is_not():
    with pytest.raises(ValueError, match="expected a table that is rebuilt, identified, summary, strongest, paper or claims, got 'other'"):
        with_tables("<!-- table: other cifar10-lenet-rebuilt -->\n<!-- end of table -->")
