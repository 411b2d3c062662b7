"""What boards are called."""

from __future__ import annotations

from dataclasses import replace

from board_cases import board
from hypothesis import given
from hypothesis import strategies as st

from reports.titles import titles

PROTOCOL = board().protocol
PROTOCOLS = st.builds(
    lambda attacks, tuned, epochs, portfolio: replace(
        board(attacks=attacks, tuned=tuned).protocol, portfolio=portfolio,
        training=PROTOCOL.training.model_copy(update={"epochs": epochs})),
    st.sampled_from([(), ("a",), ("a", "b"), ("c", "d")]), st.booleans(), st.integers(1, 3), st.integers(1, 2))


@given(protocols=st.lists(PROTOCOLS, min_size=1, max_size=6, unique_by=str), other=PROTOCOLS)
def test_no_two_are_alike_and_what_stands_alone_is_as_short_as_can_be(protocols, other):
    found = titles([*(("digits, mlp", protocol) for protocol in protocols), ("digits, lenet", other)])
    assert len(set(found)) == len(found) and found[-1] == "digits, lenet" and all(title.startswith("digits, mlp") for title in found[:-1])
    assert len(protocols) > 1 or found[0] == "digits, mlp"


def test_what_differs_tells_boards_apart_in_few_words():
    attacked, not_attacked, untuned = (board(attacks=attacks, tuned=tuned).protocol for attacks, tuned in ((("a",), True), ((), True), (("a",), False)))
    assert titles([("d, m", attacked), ("d, m", not_attacked)]) == ["d, m, a", "d, m, not attacked"]
    assert titles([("d, m", attacked), ("d, m", not_attacked), ("d, m", untuned)]) == ["d, m, a, tuned", "d, m, not attacked, tuned", "d, m, a, untuned"]
    assert titles([("d, m", attacked), ("d, m", replace(attacked, portfolio=99)), ("d, m", not_attacked)]) == [
        "d, m, a, protocol 1", "d, m, a, protocol 2", "d, m, not attacked"]
