"""The order of samples depends on (seed, step, position) only: not on workers, processes or where a run began."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from cgrseg.data.sampling import StepSampler, epoch_order, generator, sample_index
from cgrseg.data.settings import Augmentation
from cgrseg.data.synthetic import Synthetic
from cgrseg.data.transforms import TrainingCrops, collate
from cgrseg.preprocessing import Preprocessing
from cgrseg.training.loading import collate_shared, joined

STEPS, BATCH = 5, 4


def one_thread(_worker: int) -> None:
    torch.set_num_threads(1)


def batches(
    *, workers: int, rank: int = 0, world: int = 1, first_step: int = 0, seed: int = 0
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    dataset = TrainingCrops(
        samples=Synthetic(size=(40, 48), count=7),
        augmentation=Augmentation(crop=32, resize_to=None),
        preprocessing=Preprocessing(),
        seed=seed,
    )
    sampler = StepSampler(first_step=first_step, steps=STEPS, batch=BATCH, rank=rank, world=world)
    loader = DataLoader(
        dataset, batch_sampler=sampler, num_workers=workers, collate_fn=collate, worker_init_fn=one_thread
    )
    return [(images, labels) for images, labels, _, _ in loader]


def equal(one: list[tuple[torch.Tensor, torch.Tensor]], other: list[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for pair in zip(one, other, strict=True) for a, b in zip(*pair, strict=True)
    )


@pytest.fixture(scope="module")
def alone() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return batches(workers=0)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")  # on two cores
@pytest.mark.parametrize("workers", [2, 4])
def test_workers_change_nothing(workers: int, alone: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    assert equal(batches(workers=workers), alone)


@pytest.mark.parametrize("workers", [0, 2])
def test_two_processes_see_the_halves_of_the_same_batches(
    workers: int, alone: list[tuple[torch.Tensor, torch.Tensor]]
) -> None:
    halves = [batches(workers=workers, rank=rank, world=2) for rank in (0, 1)]
    joined = [(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])) for a, b in zip(halves[0], halves[1], strict=True)]
    assert equal(joined, alone)


def test_a_run_that_goes_on_sees_what_it_would_have_seen(alone: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    assert equal(batches(workers=0, first_step=3), alone[3:])
    assert batches(workers=0, first_step=STEPS) == []


def test_another_seed_is_another_run(alone: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    assert not equal(batches(workers=0, seed=1), alone)


def test_global_random_state_is_neither_used_nor_changed(alone: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    torch.manual_seed(99)
    np.random.seed(99)
    before = np.random.get_state()[1].copy()
    assert equal(batches(workers=0), alone)
    assert (np.random.get_state()[1] == before).all()


def test_every_epoch_holds_each_sample_once_in_an_order_of_its_own() -> None:
    length = 23
    epochs = [[sample_index(5, epoch * length + place, length) for place in range(length)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert epochs[0] != [sample_index(6, place, length) for place in range(length)]


def test_an_order_can_not_be_changed_by_its_users() -> None:
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(0, 0, 5)[0] = 3


def test_samples_have_unrelated_randomness() -> None:
    draws = np.array([generator(seed, number).random(4) for seed in (0, 1) for number in range(500)])
    assert len(np.unique(draws)) == draws.size
    assert np.abs(np.corrcoef(draws[:500, 0], draws[500:, 0])[0, 1]) < 0.15
    assert np.abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.1


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_ranks_share_each_step_without_gap_or_overlap(world: int) -> None:
    shares = [list(StepSampler(first_step=2, steps=6, batch=8, rank=rank, world=world)) for rank in range(world)]
    assert all(len(share) == 4 for share in shares)
    for step in range(4):
        assert [number for share in shares for number in share[step]] == list(range(8 * (step + 2), 8 * (step + 3)))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"batch": 5, "world": 2}, "a batch of 5 can't be split evenly over 2 processes"),
        ({"batch": 0}, "a batch of 0"),
        ({"batch": 4, "rank": 2, "world": 2}, "rank 2 is not one of 2 processes"),
    ],
)
def test_impossible_shares_are_refused(arguments: dict[str, int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        StepSampler(first_step=0, steps=1, **arguments)


@pytest.mark.parametrize("parts", [2, 3, 9])
def test_the_parts_of_a_step_are_its_samples_in_order(parts: int) -> None:
    whole = list(StepSampler(first_step=1, steps=3, batch=8, rank=1, world=2))
    sampler = StepSampler(first_step=1, steps=3, batch=8, rank=1, world=2, parts=parts)
    lists = list(sampler)
    assert len(lists) == len(sampler) == 2 * min(parts, 4) and all(lists)
    assert [*chain(*lists)] == [*chain(*whole)] == [12, 13, 14, 15, 20, 21, 22, 23]
    assert max(map(len, lists)) - min(map(len, lists)) <= 1


@pytest.mark.parametrize("teacher", [False, True])
def test_a_batch_read_in_parts_is_the_whole_batch(teacher: bool) -> None:
    random = torch.manual_seed(0)
    samples = [
        (
            torch.randn(3, 16, 16, generator=random),
            torch.randint(0, 5, (16, 16), generator=random).byte(),
            torch.rand(5, 2, 2, generator=random) if teacher else None,
            (f"problem {number}",),
        )
        for number in range(5)
    ]
    whole = collate_shared(samples)
    found = joined([collate_shared(samples[:2]), collate_shared(samples[2:])], torch.channels_last)
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    assert found[3] == whole[3] == [f"problem {number}" for number in range(5)]
    for one, other in zip(found[:3], whole[:3], strict=True):
        assert (one is None and other is None) or torch.equal(one, other)
