"""What the worst cases choose, from rows made by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.worst_case import blind, informed, likeliest, oracle_bound, with_worst_cases


def rows(*attacks, defense="mine", seed=0, epoch=0, batch=1, observed="single"):
    """Rows of (attack, knowledge, score per victim, SSIM per image), all with a blind score of the same order as the score."""
    return pd.DataFrame([
        {"defense": defense, "seed": seed, "checkpoint_epoch": epoch, "observed": observed, "attack": attack, "knowledge": knowledge, "victim": victim,
         "image": image, "ssim": ssims[victim * batch + image], "score": score, "seconds": 2.0,
         "blind_score": None if knowledge == "informed" or score is None else 10 * score}
        for attack, knowledge, scores, ssims in attacks for victim, score in enumerate(scores) for image in range(batch)]
    ).astype({"score": float, "blind_score": float})


def chosen(frame):
    """(attack, knowledge) of each victim, in order."""
    first = frame.drop_duplicates(["defense", "seed", "checkpoint_epoch", "victim"]).sort_values(["seed", "checkpoint_epoch", "victim"])
    return list(zip(first["attack"], first["knowledge"], strict=True))


def by_score(frame):
    return likeliest(frame, "score")


def test_the_lower_score_wins_though_its_similarity_is_lower():
    frame = rows(("a", "informed", [1.0, 4.0], [0.1, 0.9]), ("b", "informed", [2.0, 3.0], [0.9, 0.1]))
    assert chosen(by_score(frame)) == [("a", "informed"), ("b", "informed")]
    assert by_score(frame)["ssim"].tolist() == [0.1, 0.1]
    assert oracle_bound(frame).sort_values("victim")["ssim"].tolist() == [0.9, 0.9]


def test_the_blind_worst_case_never_sees_what_was_informed():
    """Nor the informed score of what was blind."""
    frame = rows(("a", "informed", [-math.inf], [1.0]), ("b", "blind", [2.0], [0.5]), ("c", "both", [3.0], [0.6]))
    assert chosen(blind(frame)) == [("b", "blind")] and chosen(informed(frame)) == [("a", "informed")]
    frame.loc[frame["attack"] == "b", "blind_score"] = 99.0
    assert chosen(blind(frame)) == [("c", "both")]
    frame.loc[frame["attack"] == "a", "blind_score"] = -math.inf  # even if it had one
    assert chosen(blind(frame)) == [("c", "both")]
    assert blind(frame[frame["knowledge"] == "informed"]).empty
    several = rows(("a", "informed", [1.0] * 4, [1.0] * 4), ("b", "blind", [2.0] * 4, [0.5] * 4))
    assert chosen(blind(several)) == [("b", "blind")] * 4 and chosen(informed(several)) == [("a", "informed")] * 4


def test_who_is_informed_can_choose_as_if_he_were_not():
    """Where what is known of the defense misleads the choice between two attacks, of which each rebuilds every other pair of victims."""
    ours, theirs = [1.0, 1.0, 0.0, 0.0] * 2, [0.0, 0.0, 1.0, 1.0] * 2
    frame = rows(("a", "blind", [1 - s for s in ours], ours), ("b", "blind", [1 - s for s in theirs], theirs))
    frame["score"] = frame["ssim"]
    assert by_score(frame)["ssim"].max() == 0 and blind(frame)["ssim"].min() == 1
    assert chosen(informed(frame)) == chosen(blind(frame)) and len(informed(frame)) == 8


def test_the_informed_worst_case_also_chooses_what_was_made_blindly():
    frame = rows(("a", "informed", [3.0, 1.0], [0.5, 0.5]), ("a", "blind", [2.0, 2.0], [0.1, 0.1]))
    assert chosen(by_score(frame)) == [("a", "blind"), ("a", "informed")]
    better = rows(("a", "informed", [1.0, 1.0], [0.1, 0.1]), ("a", "blind", [2.0, 2.0], [0.9, 0.9]))
    assert chosen(informed(better)) == [("a", "blind")] * 2


def test_what_is_settled_on_is_what_rebuilt_the_others():
    """The scores mislead: one attack rebuilds nearly all, and never the likeliest."""
    frame = rows(("a", "informed", [1.0] * 6, [0.1] * 6), ("b", "informed", [2.0] * 6, [0.9, 0.7, 0.6, 0.59, 0.8, 0.9]))
    assert chosen(by_score(frame)) == [("a", "informed")] * 6 and chosen(informed(frame)) == [("b", "informed")] * 6
    assert informed(frame).sort_values("victim")["ssim"].tolist() == [0.9, 0.7, 0.6, 0.59, 0.8, 0.9]


def test_no_original_has_a_part_in_the_choice_of_its_own_reconstruction():
    """The odd victims are rebuilt by what rebuilds the even ones, though another attack would do better, and the even ones by that."""
    frame = rows(("a", "both", [1.0] * 4, [0.9, 0.1, 0.9, 0.1]), ("b", "both", [2.0] * 4, [0.2, 0.8, 0.2, 0.8]))
    assert chosen(informed(frame)) == chosen(blind(frame)) == [("b", "both"), ("a", "both")] * 2
    assert informed(frame).sort_values("victim")["ssim"].tolist() == [0.2, 0.1, 0.2, 0.1]
    changed = frame.copy()
    changed.loc[frame["victim"].isin([0, 2]), "ssim"] = 0.0
    assert chosen(informed(changed))[0::2] == chosen(informed(frame))[0::2]


def test_more_rebuilt_images_count_before_a_higher_similarity():
    frame = rows(("a", "both", [1.0] * 4, [0.59] * 4), ("b", "both", [2.0] * 4, [0.6, 0.6, 0.0, 0.0]))
    assert chosen(informed(frame)) == [("b", "both")] * 4
    assert chosen(informed(frame.assign(ssim=frame["ssim"] - 0.01))) == [("a", "both")] * 4


def test_the_choice_by_scores_is_a_way_too():
    """Where each attack rebuilds every other pair of victims and the scores tell which, it rebuilds all."""
    frame = rows(("a", "both", [1.0, 1.0, 3.0, 3.0], [0.9, 0.9, 0.0, 0.0]), ("b", "both", [2.0] * 4, [0.1, 0.1, 0.8, 0.8]))
    assert chosen(informed(frame)) == [("a", "both"), ("a", "both"), ("b", "both"), ("b", "both")]


def test_what_was_not_made_on_all_victims_is_not_settled_on():
    """It would leave some without a reconstruction; where its reconstructions are likelier, they are chosen."""
    frame = rows(("a", "both", [1.0] * 4, [0.1] * 4), ("b", "both", [2.0, 2.0, 2.0, 0.5], [0.9] * 4))
    assert chosen(informed(frame)) == [("b", "both")] * 4
    partly = frame[(frame["attack"] == "a") | (frame["victim"] > 0)]
    assert chosen(informed(partly)) == [("a", "both")] * 3 + [("b", "both")]


def test_seeds_are_settled_together():
    """One victim of each seed: what rebuilt the other of both."""
    frame = pd.concat([rows(("a", "both", [1.0] * 2, [0.1] * 2), ("b", "both", [2.0] * 2, [0.9, 0.1]), seed=seed) for seed in (0, 1)])
    assert chosen(informed(frame)) == [("a", "both"), ("b", "both")] * 2


def test_of_equal_ways_the_choice_by_score_is_taken_and_of_equal_scores_the_first():
    frame = rows(("b", "both", [1.0, 1.0], [0.1, 0.1]), ("a", "both", [1.0, 1.0], [0.1, 0.1]))
    assert chosen(informed(frame)) == chosen(blind(frame)) == chosen(by_score(frame)) == [("b", "both")] * 2
    frame = rows(("b", "both", [3.0, 1.0], [0.1, 0.1]), ("a", "both", [2.0, 2.0], [0.1, 0.1]))
    assert chosen(informed(frame)) == chosen(by_score(frame)) == [("a", "both"), ("b", "both")]
    same = rows(("b", "both", [1.0], [0.9]), ("a", "both", [2.0], [0.9]))
    assert chosen(oracle_bound(same)) == [("b", "both")]


@pytest.mark.parametrize("missing", [None, math.nan])
def test_what_has_no_score_wins_only_where_nothing_else_is(missing):
    frame = rows(("a", "both", [missing] * 4, [1.0] * 4), ("b", "both", [5.0, math.inf, -math.inf, missing], [0.1] * 4))
    assert chosen(by_score(frame)) == chosen(likeliest(frame, "blind_score")) == [("b", "both")] * 3 + [("a", "both")]


def test_infinite_scores_are_ordered_as_numbers():
    frame = rows(("a", "both", [math.inf, math.inf], [1.0, 1.0]), ("b", "both", [1e300, math.inf], [0.1, 0.1]))
    assert chosen(by_score(frame)) == [("b", "both"), ("a", "both")]


def test_the_images_of_a_victim_are_chosen_together():
    """Also by the oracle bound: by their mean, not each by itself."""
    frame = rows(("a", "both", [1.0, 4.0], [0.2, 0.3, 0.9, 0.1]), ("b", "both", [2.0, 3.0], [0.9, 0.0, 0.0, 0.8]), batch=2)
    found = by_score(frame)
    assert sorted(zip(found["victim"], found["image"], found["attack"], strict=True)) == [(0, 0, "a"), (0, 1, "a"), (1, 0, "b"), (1, 1, "b")]
    assert chosen(oracle_bound(frame)) == [("b", "both"), ("a", "both")]  # 0.45 and 0.5 against 0.25 and 0.4


def test_every_seed_checkpoint_mode_and_defense_chooses_for_itself():
    better, worse = ("a", "both", [1.0], [0.5]), ("b", "both", [2.0], [0.5])
    switched = ("a", "both", [2.0], [0.5]), ("b", "both", [1.0], [0.5])
    frame = pd.concat([rows(better, worse), rows(*switched, seed=1), rows(*switched, epoch=5), rows(*switched, defense="other"),
                       rows(*switched, observed="as-trained")])
    found = informed(frame)
    place = ["defense", "seed", "checkpoint_epoch", "observed"]
    assert {tuple(row[:4]): row[4] for row in found[[*place, "attack"]].to_numpy().tolist()} == {
        ("mine", 0, 0, "single"): "a", ("mine", 1, 0, "single"): "b", ("mine", 0, 5, "single"): "b", ("other", 0, 0, "single"): "b",
        ("mine", 0, 0, "as-trained"): "b"}


def test_a_later_attack_changes_the_choice_where_it_is_likelier_or_better():
    before = rows(("a", "both", [2.0, 2.0], [0.2, 0.2]))
    after = pd.concat([before, rows(("later", "informed", [1.0, 3.0], [0.9, 0.9]))])
    assert chosen(by_score(before)) == [("a", "both")] * 2
    assert chosen(by_score(after)) == [("later", "informed"), ("a", "both")]
    unlikely = pd.concat([before, rows(("later", "informed", [3.0, 3.0], [0.9, 0.9]))])
    assert chosen(informed(before)) == [("a", "both")] * 2 and chosen(informed(unlikely)) == [("later", "informed")] * 2
    assert chosen(blind(after)) == chosen(blind(before))


def test_the_time_is_that_of_all_that_was_chosen_among():
    """Of a batch once, not once per image; of a blind attacker without what was informed."""
    frame = rows(("a", "blind", [1.0], [0.5, 0.5]), ("b", "informed", [2.0], [0.5, 0.5]), ("c", "both", [3.0], [0.5, 0.5]), batch=2)
    assert informed(frame)["seconds"].tolist() == oracle_bound(frame)["seconds"].tolist() == [6.0, 6.0]
    assert blind(frame)["seconds"].tolist() == [4.0, 4.0]


def test_groups_of_attacks_choose_for_themselves():
    frame = rows(("a(x=1)", "both", [1.0], [0.5]), ("a(x=2)", "both", [0.0], [0.5]), ("b", "both", [2.0], [0.5]))
    found = likeliest(frame.assign(name=frame["attack"].str[0]), "score", ["name"])
    assert dict(zip(found["attack"], found["seconds"], strict=True)) == {"a(x=2)": 4.0, "b": 2.0}


def test_rows_of_attacks_stay_and_those_that_were_chosen_say_whose_they_are():
    frame = rows(("a", "informed", [1.0], [0.1]), ("b", "blind", [2.0], [0.9]))
    found = with_worst_cases(frame)
    told = found[["kind", "attack", "knowledge", "of_attack", "of_knowledge", "ssim"]].to_numpy().tolist()
    assert told == [["attack", "a", "informed", "a", "informed", 0.1], ["attack", "b", "blind", "b", "blind", 0.9],
                    ["worst case", "worst case", "informed", "a", "informed", 0.1], ["worst case", "worst case", "blind", "b", "blind", 0.9],
                    ["oracle bound", "oracle bound", "", "b", "blind", 0.9]]


scores = st.none() | st.sampled_from([0.0, 1.0, 2.0, math.inf, -math.inf])
similarities = st.integers(-8, 8).map(lambda eighths: eighths / 8)  # whose means are equal or clearly not


@st.composite
def runs(draw):
    """Up to four attacks on up to three victims of up to two images, of two seeds."""
    victims, batch = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    of = draw(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["blind", "informed", "both"])), min_size=1, max_size=4, unique=True))
    lists = lambda element, count: draw(st.lists(element, min_size=count, max_size=count))  # noqa: E731
    return pd.concat([rows(*((*attack, lists(scores, victims), lists(similarities, victims * batch)) for attack in of), seed=seed, batch=batch)
                      for seed in (0, 1)], ignore_index=True)


@given(frame=runs())
def test_the_choices_by_their_definition(frame):
    """One victim after another, in plain Python; and the oracle bound is at least as alike as either worst case."""
    for strongest_of, score, allowed in ((informed, "score", {"blind", "informed", "both"}), (blind, "blind_score", {"blind", "both"})):
        frame_of = frame[frame["knowledge"].isin(allowed)]
        likely = []
        for _, victim in frame_of.groupby(["seed", "victim"]):
            candidates = victim.drop_duplicates(["attack", "knowledge"]).to_dict("records")
            best = min(candidates, key=lambda row: (math.isnan(row[score]), 0.0 if math.isnan(row[score]) else row[score]))
            likely.append((best["attack"], best["knowledge"]))
        assert chosen(likeliest(frame_of, score)) == likely
        expected = by_hand(frame_of, likely)
        found = strongest_of(frame)
        assert chosen(found) == expected
        assert len(found) == len(expected) * frame["image"].nunique()
        bound = oracle_bound(frame_of)
        assert not len(found) or np.mean(bound["ssim"]) >= np.mean(found["ssim"]) - 1e-12


def by_hand(frame, likely):
    """Of each victim (attack, knowledge), given those of the lowest scores."""
    victims = sorted(set(zip(frame["seed"], frame["victim"], strict=True)))
    ways = [dict(zip(victims, likely, strict=True))]
    ways += [dict.fromkeys(victims, attack) for attack in dict.fromkeys(zip(frame["attack"], frame["knowledge"], strict=True))]
    images = {}
    for row in frame.to_dict("records"):
        images.setdefault((row["seed"], row["victim"], row["attack"], row["knowledge"]), []).append(row["ssim"])
    expected = []
    for victim in victims:
        others = [other for other in victims if other[1] % 2 != victim[1] % 2]

        def rehearsed(way, others=others):
            ssims = [ssim for other in others for ssim in images[(*other, *way[other])]]
            return sum(ssim >= 0.6 for ssim in ssims), round(float(np.mean(ssims)), 9)

        expected.append(max(ways, key=rehearsed)[victim] if others else ways[0][victim])
    return expected
