"""Each candidate is scored once, for the victims that have it, in parts that change nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attacks.engine import memory
from attacks.identification import Candidates, pools
from attacks.identification.pools import at_once, scored


def candidates_of(victims: int, size: int, count: int, seed: int) -> Candidates:
    generator = torch.Generator().manual_seed(seed)
    images = torch.arange(count, dtype=torch.float32).view(-1, 1, 1, 1)
    return Candidates(images, torch.arange(count) % 3, torch.randint(count, (victims, size), generator=generator))


@given(victims=st.integers(1, 5), size=st.integers(1, 6), count=st.integers(1, 20), seed=st.integers(0, 100), width=st.integers(1, 8))
def test_every_candidate_that_is_in_a_pool_is_scored_once(victims, size, count, seed, width):
    candidates, seen, told = candidates_of(victims, size, count, seed), [], []

    def score(images, labels, of):
        own = images.flatten().long()
        assert torch.equal(labels, own % 3) and len(own) <= width and len(of)
        for victim in of.tolist():
            assert set(candidates.pools[victim].tolist()) & set(own.tolist())
        seen.extend(own.tolist())
        return 100.0 * of[:, None] + own

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pools, "_MOST", width)
        found = scored(candidates, score, lambda: 1, lambda done, total: told.append((done, total)))
    assert torch.equal(found, 100.0 * torch.arange(victims)[:, None] + candidates.pools) and found.dtype == torch.float64
    assert sorted(seen) == candidates.pools.unique().tolist()
    assert told[-1] == (len(seen), len(seen)) and told == sorted(told)


def test_where_memory_is_missing_fewer_are_looked_at(caplog):
    candidates = candidates_of(3, 20, 60, 0)

    def score(images, labels, of):
        if len(images) > 8:
            raise RuntimeError("out of memory")
        return of[:, None] + images.flatten()

    found = scored(candidates, score, lambda: 1, lambda done, total: None)
    assert torch.equal(found, torch.arange(3)[:, None] + candidates.pools.double()) and "out of memory" in caplog.text


def test_how_many_at_once(monkeypatch):
    monkeypatch.setattr(memory, "budget", lambda device: 1000)
    device = torch.device("cpu")
    assert [at_once(each, device) for each in (0, 1, 10, 300, 2000)] == [512, 512, 100, 3, 1]
