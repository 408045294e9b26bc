from __future__ import annotations

import numpy as np
import pytest

from auxtasks.data.loaders import Shard
from auxtasks.data.plan import EpochPlan
from auxtasks.data.row_feed import RowFeed
from auxtasks.errors import TrainingError


@pytest.mark.parametrize(("items", "batch_size"), [(10, 4), (3, 8), (7, 7)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_rows_are_those_of_the_plans_picks(items, batch_size, shuffle):
    plan = EpochPlan(items, batch_size, seed=5, shuffle=shuffle)
    for step in (0, 1, 2, 9):
        assert plan.rows(step).tolist() == [pick.row for pick in plan.batch(step)]


def test_processes_and_micro_batches_share_out_the_global_batch():
    plan = EpochPlan(23, 8, seed=1)
    feed = RowFeed(lambda rows: rows.copy(), plan)
    shards = [Shard(rank, processes=2, accumulation=2) for rank in range(2)]
    parts = [list(feed.batches(3, 6, shard)) for shard in shards]
    for place, step in enumerate(range(3, 6)):
        # Micro-batch by micro-batch, and each of them over the processes in order of rank.
        found = [part[2 * place + micro] for micro in range(2) for part in parts]
        assert np.concatenate(found).tolist() == plan.rows(step).tolist()


def test_a_batch_that_cannot_be_split_is_refused():
    feed = RowFeed(lambda rows: rows, EpochPlan(23, 8, seed=1))
    with pytest.raises(TrainingError, match="a multiple of 3"):
        feed.check(Shard(processes=3))
