"""Noise: how much of the input it hits, by what, and what it refuses."""

import pytest
import torch

from auxtasks.errors import TrainingError
from auxtasks.noise import Noise

ITEMS, WIDTH = 200, 100


@pytest.fixture
def inputs():
    # No value is 0 or 1: whatever is, was put there.
    return 0.2 + 0.6 * torch.rand(ITEMS, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("amount", [0.1, 0.25, 0.9])
def test_masking_sets_a_share_to_zero_and_leaves_the_rest(inputs, amount):
    torch.manual_seed(1)
    found = Noise("masking", amount)(inputs)
    hit = found != inputs
    assert (found[hit] == 0).all()
    assert hit.double().mean().item() == pytest.approx(amount, abs=0.01)


@pytest.mark.parametrize("amount", [0.1, 0.5])
def test_salt_and_pepper_are_each_half(inputs, amount):
    torch.manual_seed(1)
    found = Noise("salt_and_pepper", amount)(inputs)
    salt, pepper = (found == 1).double().mean().item(), (found == 0).double().mean().item()
    assert salt == pytest.approx(amount / 2, abs=0.01)
    assert pepper == pytest.approx(amount / 2, abs=0.01)
    assert ((found == inputs) | (found == 0) | (found == 1)).all()


def test_gaussian_noise_has_the_standard_deviation_and_no_mean(inputs):
    torch.manual_seed(1)
    added = (Noise("gaussian", 1.5)(inputs) - inputs).double()
    assert added.mean().item() == pytest.approx(0, abs=4 * 1.5 / (ITEMS * WIDTH) ** 0.5)
    assert added.std().item() == pytest.approx(1.5, rel=0.02)


@pytest.mark.parametrize("kind", ["masking", "salt_and_pepper", "gaussian"])
def test_it_makes_a_copy_follows_the_seed_and_hits_each_item_anew(inputs, kind):
    kept = inputs.clone()
    noise = Noise(kind, 0.5)
    torch.manual_seed(1)
    first = noise(inputs)
    torch.manual_seed(1)
    assert torch.equal(noise(inputs), first)
    assert not torch.equal(noise(inputs), first)
    assert torch.equal(inputs, kept)
    assert first.shape == inputs.shape
    same = noise(inputs[:1].expand(ITEMS, -1))
    assert len(torch.unique(same, dim=0)) == ITEMS


@pytest.mark.parametrize("kind", ["masking", "salt_and_pepper", "gaussian"])
def test_no_amount_is_no_noise(inputs, kind):
    assert torch.equal(Noise(kind, 0.0)(inputs), inputs)


@pytest.mark.parametrize(
    ("kind", "amount", "message"),
    [
        ("salt", 0.1, r'noise is one of masking, salt_and_pepper, gaussian, found "salt"'),
        ("gaussian", -0.5, r"gaussian noise of -0\.5: the amount is at least 0"),
        ("masking", 1.0, r"masking noise of 1\.0 corrupts all of the input"),
        ("salt_and_pepper", 25, r"noise of 25 corrupts all of the input.*a share below 1, such as 0\.25"),
        ("gaussian", float("nan"), r"gaussian noise of nan"),
    ],
)
def test_what_is_no_noise_is_refused(kind, amount, message):
    with pytest.raises(TrainingError, match=message):
        Noise(kind, amount)
