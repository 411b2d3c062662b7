"""Verdicts on claims, by runs made by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_cases import ATTACK, write_cells

from benchmark import claims
from benchmark.claims import Expectation
from benchmark.cli import execute
from benchmark.errors import InputError
from benchmark.store.results import find_run
from reports import claim_documents
from reports.claim_documents import Claims
from reports.claims import judge, outcome, together
from reports.leaderboard import build
from reports.statistics import Estimate, bootstrap_ratio

MINE = "noise(std=0.1)"
ALL, NONE = [0.9] * 40, [0.1] * 40


def claim_of(*expects, comparable=True, beside=(), **changes):
    return claims.make({
        "name": "mine", "source": "A, 2020", "statement": "it | holds", "reported": "0 %", "verified": True, "protocol": "theirs",
        "departures": "ours", "comparable": comparable, "expects": list(expects), "beside": list(beside), "grid": {}, **changes}, "test")


def cell(accuracy, blind, informed=None, *, epoch=0, mse=0.1, better=None):
    """Of a defense whose reconstructions by blind attackers, and by informed ones, have these SSIM; of the plain client they are the same."""
    kinds = {"both": blind} if informed is None else {"blind": blind, "informed": informed}
    return {"accuracies": [0.1, accuracy],
            "attacks": {(epoch, ATTACK, knowledge): {"ssim": ssim, "mse": np.broadcast_to(mse, len(ssim)).tolist()} for knowledge, ssim in kinds.items()},
            "identifications": {} if better is None else {(0, "both" if informed is None else "informed"): {"better": better}}}


def judged(tmp_path, claim, plain, mine, seeds=(0, 1)):
    cells = {("digits", "lenet", name, seed): of for name, of in (("none", plain), (MINE, mine)) if of for seed in seeds}
    failed = [("digits", "lenet", MINE, seed) for seed in seeds] if mine is None else []
    run = write_cells(tmp_path / "run", cells, epochs=1, attacks=[ATTACK], victims=40, candidates=100, failed=failed,
                      families=[("none", None, ["none"]), (MINE, None, [MINE])])
    return judge(claim, build([find_run(run)])[0])


def asr(attacker, **limit):
    return {"figure": "asr", "of": MINE, "attacker": attacker, **limit}


@pytest.mark.parametrize(("blind", "informed", "expected", "verdict"), [
    (NONE, NONE, ["holds", "holds"], "holds"),
    (NONE, ALL, ["holds", "falls"], "falls"),
    # An informed attacker may do what a blind one does; the interval of 3 in 20 is [0.09, 0.24].
    (ALL, NONE, ["falls", "falls"], "falls"),
    (NONE, [0.9] * 6 + [0.1] * 34, ["holds", "undecided"], "undecided"),
])
def test_a_rate_decides_by_the_whole_of_its_interval(tmp_path, blind, informed, expected, verdict):
    claim = claim_of(asr("blind", at_most=0.1), asr("informed", at_most=0.1))
    result = judged(tmp_path, claim, cell(0.8, ALL), cell(0.8, blind, informed))
    assert [finding.outcome for finding in result.findings] == expected and (result.here, result.verdict) == (verdict, verdict)
    assert all(finding.undefended.mean == 1.0 for finding in result.findings)


def test_a_low_rate_is_no_evidence_where_the_attacks_fail_without_a_defense_too(tmp_path):
    result = judged(tmp_path, claim_of(asr("informed", at_most=0.1)), cell(0.8, NONE), cell(0.8, NONE, NONE))
    (finding,) = result.findings
    assert (finding.outcome, result.verdict) == ("undecided", "undecided") and finding.reason == "the attacks do not succeed without a defense either"
    absent = {**cell(0.8, ALL), "attacks": {}}
    (finding,) = judged(tmp_path / "absent", claim_of(asr("informed", at_most=0.1)), absent, cell(0.8, NONE, NONE)).findings
    assert (finding.outcome, finding.reason) == ("undecided", "it was not measured without a defense")
    high = judged(tmp_path / "high", claim_of(asr("informed", at_most=0.1)), cell(0.8, NONE), cell(0.8, NONE, ALL))
    assert high.verdict == "falls"  # that it leaks needs no comparison


def test_where_the_protocol_differs_that_is_the_verdict_and_the_figures_are_told_all_the_same(tmp_path):
    result = judged(tmp_path, claim_of(asr("informed", at_most=0.1), comparable=False), cell(0.8, ALL), cell(0.8, ALL, ALL))
    assert (result.here, result.verdict) == ("falls", "differs in protocol")
    assert claim_documents.verdict(result) == "differs in protocol (here: falls)"


def test_the_leakiest_checkpoint_counts(tmp_path):
    mine = cell(0.8, NONE, NONE)
    mine["attacks"] |= cell(0.8, ALL, ALL, epoch=1)["attacks"]
    assert judged(tmp_path, claim_of(asr("blind", at_most=0.1)), cell(0.8, ALL), mine).findings[0].value.mean == 1.0


@pytest.mark.parametrize(("accuracy", "seeds", "said", "reason"), [
    (0.79, (0, 1), "holds", ""), (0.7, (0, 1), "falls", ""), (0.79, (0,), "undecided", "one training has no interval")])
def test_a_change_of_accuracy(tmp_path, accuracy, seeds, said, reason):
    result = judged(tmp_path, claim_of({"figure": "change", "of": MINE, "at_least": -0.02}), cell(0.8, ALL), cell(accuracy, ALL, ALL), seeds)
    (finding,) = result.findings
    assert finding.value.mean == pytest.approx(accuracy - 0.8) and (finding.outcome, finding.reason, finding.undefended) == (said, reason, None)


def test_identification_beside_decides_nothing(tmp_path):
    claim = claim_of(asr("informed", at_most=0.1), beside=[{"figure": "top-1", "of": MINE}])
    result = judged(tmp_path, claim, cell(0.8, ALL, better=[0] * 40), cell(0.8, NONE, NONE, better=[0] * 40))
    assert result.verdict == "holds" and (result.findings[1].outcome, result.findings[1].size) == (None, 100)
    assert result.findings[1].value.mean == result.findings[1].undefended.mean == 1.0


def test_the_ratio_of_errors_by_hand(tmp_path):
    """Errors of 0.3 against 0.1 of each image; blind attackers have 0.6, and informed ones take the lower."""
    mine = cell(0.8, NONE, [0.2] * 40)  # the likelier ones, so that they are chosen
    for knowledge, mse in (("blind", 0.6), ("informed", 0.3)):
        mine["attacks"][0, ATTACK, knowledge]["mse"] = [mse] * 40
    ratio = {"figure": "mse-ratio", "of": MINE, "against": "none", "at_least": 4}
    claim = claim_of({**ratio, "attacker": "blind"}, {**ratio, "attacker": "informed"})
    blind, informed = judged(tmp_path, claim, cell(0.8, ALL, mse=0.1), mine).findings
    assert blind.value.mean == pytest.approx(6) and informed.value.mean == pytest.approx(3)
    assert (blind.outcome, informed.outcome) == ("holds", "falls")


def test_the_interval_of_a_ratio_is_that_of_things_that_belong_together():
    """Where one is a multiple of the other, whatever they are, the ratio has no spread; else it has."""
    values = np.random.default_rng(0).random(30)
    tight, wide = bootstrap_ratio(2 * values, values), bootstrap_ratio(2 * values, values[::-1])
    assert [tight.low, tight.mean, tight.high] == pytest.approx([2, 2, 2]) and wide.mean == pytest.approx(2)
    assert wide.low < 1.9 and wide.high > 2.1
    assert bootstrap_ratio(np.ones(3), np.zeros(3)) == Estimate(float("inf"), float("inf"), float("inf"))
    assert bootstrap_ratio(np.zeros(3), np.zeros(3)).mean == 1 and bootstrap_ratio(np.ones(1), np.ones(1)).low is None


def test_what_was_not_measured_is_undecided_and_says_why(tmp_path):
    (finding,) = judged(tmp_path, claim_of(asr("blind", at_most=0.1)), cell(0.8, ALL), None).findings
    assert (finding.value, finding.outcome) == (None, "undecided") and finding.reason.startswith("seed 0: ")


@given(st.tuples(*[st.floats(0, 1)] * 3).map(sorted), st.floats(0, 1))
def test_a_limit_divides_intervals(bounds, limit):
    low, mean, high = bounds
    value = Estimate(mean, low, high)
    above, below = (outcome(value, Expectation(figure="asr", of="a", **{side: limit})) for side in ("at_least", "at_most"))
    assert (above == "undecided") is (low < limit <= high) and (below == "undecided") is (low <= limit < high)
    assert (above == "holds") is (low >= limit) and (below == "holds") is (high <= limit)
    assert outcome(Estimate(mean, None, None), Expectation(figure="asr", of="a", at_most=limit)) == "undecided"


def test_all_that_decide_must_hold():
    assert together(["holds", "holds"]) == "holds" and together(["holds", "undecided"]) == "undecided"
    assert together(["undecided", "falls", "holds"]) == "falls"


def test_the_table_and_the_page_and_the_document(tmp_path):
    result = judged(tmp_path, claim_of(asr("informed", at_most=0.1), verified=False), cell(0.8, ALL), cell(0.8, NONE, NONE))
    document = Claims("leakboard-claims/1", [result])
    claim_documents.write(document, tmp_path / "out")
    assert claim_documents.read(tmp_path / "out" / "claims.json") == document
    header, _, row = claim_documents.table(document).splitlines()
    assert header.startswith("| claim | source |") and r"it \| holds" in row and "0 % (not verified)" in row
    assert "noise(std=0.1), informed: ASR 0.00 [0.00, 0.05], undefended 1.00 [0.95, 1.00] (limit ≤ 0.1: holds) | holds |" in row
    assert execute(["report", str(tmp_path / "run"), "--claims", str(tmp_path / "out" / "claims.json"), "--out", str(tmp_path / "site")]) == 0
    index = tmp_path / "site" / "index.html"
    page = (index.parent / "claims.html").read_text()
    assert "not verified in the source" in page and "theirs" in page and "ours" in page and ">holds<" in re.sub(r"\s", "", page)
    assert {"claims.md", "claims.json"} <= {path.name for path in index.parent.iterdir()}
    linked = [page.name for page in index.parent.glob("*.html") if 'href="claims.html"' in page.read_text()]
    assert len(linked) == len(list(index.parent.glob("*.html")))


@pytest.mark.parametrize(("content", "message"), [(None, "cannot read"), ("{}", "format: field required"), ("no", "Invalid JSON|invalid JSON")])
def test_a_document_that_is_none_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "claims.json").write_text(content)
    with pytest.raises(InputError, match=message):
        claim_documents.read(tmp_path / "claims.json")
