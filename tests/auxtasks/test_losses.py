"""Each loss against the same formula written as nested loops, gradients included."""

import itertools
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from auxtasks.losses import batch_hard_triplet, contrastive, cosines, pair_logistic, pair_masks

IDENTITIES = torch.tensor([0, 0, 0, 1, 1, -2, -3, 7])  # with three that have no partner
SCALE, THRESHOLD = 7.0, 0.3


def embeddings(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(IDENTITIES), 5, generator=generator, dtype=torch.float64)


def cosine_of(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / ((a * a).sum().sqrt() * (b * b).sum().sqrt())


def pairs_of(same: bool) -> list[tuple[int, int]]:
    """Each pair once, where the matrices hold it twice."""
    numbers = IDENTITIES.tolist()
    return [(i, j) for i, j in itertools.combinations(range(len(numbers)), 2) if (numbers[i] == numbers[j]) == same]


def balanced(z: Tensor, cost, hardness: float) -> Tensor:
    """Half the weighted mean over same pairs, and half that over different ones."""
    halves = []
    for same, sign in ((True, -1), (False, 1)):
        total, weights = torch.zeros((), dtype=torch.float64), 0.0
        for i, j in pairs_of(same):
            cosine = cosine_of(z[i], z[j])
            weight = math.exp(sign * hardness * cosine.item())  # a number: no gradient flows through it
            total = total + weight * cost(cosine, same)
            weights += weight
        halves.append(total / weights)
    return (halves[0] + halves[1]) / 2


def logistic_cost(scale: Tensor, threshold: Tensor):
    def cost(cosine: Tensor, same: bool) -> Tensor:
        z = scale * (cosine - threshold)
        return torch.log1p(torch.exp(-z if same else z))

    return cost


def contrastive_cost(margin: float):
    def cost(cosine: Tensor, same: bool) -> Tensor:
        distance = (2 - 2 * cosine).sqrt()
        if same:
            return distance**2
        return (margin - distance) ** 2 if distance < margin else 0 * distance

    return cost


def triplet_loop(z: Tensor, margin: float | None) -> Tensor:
    numbers = IDENTITIES.tolist()
    costs = []
    for i, mine in enumerate(numbers):
        distance = {j: (2 - 2 * cosine_of(z[i], z[j])).sqrt() for j in range(len(numbers)) if j != i}
        same = [distance[j] for j in distance if numbers[j] == mine]
        different = [distance[j] for j in distance if numbers[j] != mine]
        if same and different:
            gap = max(same) - min(different)
            costs.append(torch.log1p(torch.exp(gap)) if margin is None else (margin + gap).clamp(min=0))
    assert len(costs) == 5  # the loop ran, and left out those without a partner
    return sum(costs) / len(costs)


def compare(fast, slow, parameters: list[Tensor]) -> None:
    """Same value and same gradients, none of which is zero."""
    gradients = []
    for loss in (fast, slow):
        for parameter in parameters:
            parameter.grad = None
        value = loss()
        value.backward()
        gradients.append((value.detach(), [parameter.grad.clone() for parameter in parameters]))
    (value, found), (expected, wanted) = gradients
    assert value > 0
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-7)
    for a, b in zip(found, wanted, strict=True):
        assert b.abs().sum() > 0
        torch.testing.assert_close(a, b, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("hardness", [0.0, 1.5])
def test_pair_logistic_equals_its_loop(hardness):
    z = embeddings().requires_grad_()
    scale = torch.tensor(SCALE, dtype=torch.float64, requires_grad=True)
    threshold = torch.tensor(THRESHOLD, dtype=torch.float64, requires_grad=True)
    masks = pair_masks(IDENTITIES)
    compare(
        lambda: pair_logistic(cosines(z), masks, scale, threshold, hardness=hardness),
        lambda: balanced(z, logistic_cost(scale, threshold), hardness),
        [z, scale, threshold],
    )


@pytest.mark.parametrize("margin", [1.0, 1.6])
@pytest.mark.parametrize("hardness", [0.0, 2.0])
def test_contrastive_equals_its_loop(margin, hardness):
    z = embeddings(1).requires_grad_()
    masks = pair_masks(IDENTITIES)
    compare(
        lambda: contrastive(cosines(z), masks, margin=margin, hardness=hardness),
        lambda: balanced(z, contrastive_cost(margin), hardness),
        [z],
    )


@pytest.mark.parametrize("margin", [None, 0.2])
def test_batch_hard_triplet_equals_its_loop(margin):
    z = embeddings(2).requires_grad_()
    masks = pair_masks(IDENTITIES)
    compare(
        lambda: batch_hard_triplet(cosines(z), masks, margin=margin),
        lambda: triplet_loop(z, margin),
        [z],
    )


def test_same_and_different_pairs_weigh_the_same_however_many_there_are():
    # 20 people with 2 photos: 1 same pair to 38 different ones. All wrong by as much: each half costs as much.
    masks = pair_masks(torch.arange(20).repeat_interleave(2))
    scale, threshold = torch.tensor(1.0), torch.tensor(0.5)
    cosine = torch.full((40, 40), 0.5, requires_grad=True)
    pair_logistic(cosine, masks, scale, threshold).backward()
    assert cosine.grad[masks.same].sum().item() == pytest.approx(-0.25)
    assert cosine.grad[masks.different].sum().item() == pytest.approx(0.25)


def test_hardness_weighs_hard_pairs_more():
    z = embeddings()
    masks = pair_masks(IDENTITIES)
    scale, threshold = torch.tensor(SCALE), torch.tensor(THRESHOLD)
    values = [pair_logistic(cosines(z), masks, scale, threshold, hardness=hardness) for hardness in (0.0, 1.0, 3.0)]
    assert values[0] < values[1] < values[2]


def test_masks_hold_every_pair_once_and_no_item_with_itself():
    masks = pair_masks(IDENTITIES)
    for i, a in enumerate(IDENTITIES.tolist()):
        for j, b in enumerate(IDENTITIES.tolist()):
            assert bool(masks.same[i, j]) == (a == b and i != j)
            assert bool(masks.different[i, j]) == (a != b)


LOSSES = {
    "logistic": lambda cosine, masks: pair_logistic(cosine, masks, torch.tensor(20.0), torch.tensor(0.3)),
    "hard_logistic": lambda cosine, masks: pair_logistic(
        cosine, masks, torch.tensor(20.0), torch.tensor(0.3), hardness=2.0
    ),
    "contrastive": contrastive,
    "triplet": batch_hard_triplet,
    "triplet_margin": lambda cosine, masks: batch_hard_triplet(cosine, masks, margin=0.2),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


@every_loss
def test_coinciding_embeddings_give_finite_gradients(loss):
    # Along the axes, so that a cosine is 1 to the bit and a distance 0: the slope of a square root is infinite there.
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    z[[0, 1]] = torch.tensor([2.0, 0.0, 0.0, 0.0])  # of one person
    z[[2, 3]] = torch.tensor([0.0, 3.0, 0.0, 0.0])  # of two people
    z.requires_grad_()
    value = loss(cosines(z), pair_masks(torch.tensor([0, 0, 1, 2, 1, 2])))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(z.grad).all()
    assert z.grad.abs().sum() > 0


@every_loss
def test_a_collapsed_batch_gives_finite_gradients(loss):
    z = torch.tensor([[1.0, 0.0, 0.0]] * 4, requires_grad=True)
    value = loss(cosines(z), pair_masks(torch.tensor([0, 0, 1, 1])))
    value.backward()
    assert value > 0.1
    assert torch.isfinite(z.grad).all()


@every_loss
@pytest.mark.parametrize("identities", [[0, 0, 0, 0], [0, 1, 2, 3]], ids=["one person", "no two photos"])
def test_a_batch_without_one_kind_of_pair_is_finite(loss, identities):
    z = embeddings()[:4].float().requires_grad_()
    value = loss(cosines(z), pair_masks(torch.tensor(identities)))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(z.grad).all()


def test_cosines_stay_in_float32_under_autocast():
    z = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    expected = torch.tensor([[float(cosine_of(a.double(), b.double())) for b in z] for a in z])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (z @ z.T).dtype == torch.bfloat16  # autocast is on
        found = cosines(z)
        assert cosines(z.bfloat16()).dtype == torch.float32
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


MEASURE = """
import pathlib, re, torch
from auxtasks.losses import batch_hard_triplet, cosines, pair_logistic, pair_masks

def peak():
    # Not ru_maxrss: a child inherits that of the process that started it.
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])

z = torch.randn(4096, 64, requires_grad=True)
identities = torch.arange(1024).repeat_interleave(4)
pair_logistic(cosines(z[:64]), pair_masks(identities[:64]), torch.tensor(9.0), torch.tensor(0.3)).backward()
before = peak()
pair_logistic(cosines(z), pair_masks(identities), torch.tensor(9.0), torch.tensor(0.3), hardness=1.0).backward()
logistic = peak() - before
assert z.grad.abs().sum() > 0
batch_hard_triplet(cosines(z), pair_masks(identities)).backward()
print(logistic / 4096**2, (peak() - before) / 4096**2)
"""


@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_memory_grows_with_the_pairs_and_not_with_the_triplets():
    # A (B, B) float32 matrix is 4 bytes a pair. All triplets of 4 photos would be 3 * 4092 = 12,276 a photo: 12 GB.
    found = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    for bytes_a_pair in map(float, found.stdout.split()):
        assert 4 < bytes_a_pair < 30 * 4
