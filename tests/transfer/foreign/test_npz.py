"""JAX's weights: a vision transformer of Flax gives the same logits in timm, and its names map completely."""

from pathlib import Path

import numpy as np
import pytest
import torch

from auxtasks.errors import CheckpointError, TransferError
from transfer.foreign import check_outputs, read_foreign
from transfer.foreign.load import load_foreign
from transfer.foreign.npz import read_npz
from transfer.foreign.rules_jax import RULES
from transfer.rename import apply_rules

FIXTURES = Path(__file__).parent / "fixtures" / "jax"

TIMM = {  # each fixture's network as timm has it
    "vit": {"global_pool": "token", "no_embed_class": True},
    "vit_map": {"global_pool": "map", "class_token": False},
    "vit_augreg": {"global_pool": "token"},
}


def tiny_vit(**options):
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(5)
    return VisionTransformer(
        img_size=8, patch_size=4, embed_dim=8, depth=2, num_heads=2, mlp_ratio=2, num_classes=3,
        act_layer="gelu_tanh", **options,
    )  # fmt: skip


def outputs_of(kind):
    with np.load(FIXTURES / f"{kind}_outputs.npz") as file:
        return torch.from_numpy(file["images"]).permute(0, 3, 1, 2), file["logits"]


@pytest.mark.parametrize("kind", TIMM)
def test_a_vision_transformer_of_flax_gives_the_same_logits_in_timm(kind):
    network = tiny_vit(**TIMM[kind])
    images, logits = outputs_of(kind)
    with pytest.raises(TransferError, match="hardly go together"):
        check_outputs(network, images, logits)  # what is random is noticed
    plan = load_foreign(FIXTURES / f"{kind}.npz", network, "vit-big-vision", least_share=1.0)
    assert plan.missing == plan.unexpected == plan.other_shape == plan.left_out == ()
    assert check_outputs(network, images, logits, tolerance=1e-5).scale > 1


def test_the_exact_gelu_is_noticed():
    network = tiny_vit(**TIMM["vit"])
    load_foreign(FIXTURES / "vit.npz", network, "vit-big-vision")
    for block in network.blocks:
        block.mlp.act = torch.nn.GELU()
    with pytest.raises(TransferError, match="GELU by tanh"):
        check_outputs(network, *outputs_of("vit"))


def test_query_and_key_in_each_others_place_are_noticed():
    network = tiny_vit(**TIMM["vit"])
    load_foreign(FIXTURES / "vit.npz", network, "vit-big-vision")
    with torch.no_grad():
        for block in network.blocks:
            block.attn.qkv.weight.copy_(block.attn.qkv.weight.roll(8, dims=0))
    with pytest.raises(TransferError, match="the outputs are not those expected"):
        check_outputs(network, *outputs_of("vit"))


def test_a_table_of_positions_with_another_row_is_an_error_and_changes_nothing():
    network = tiny_vit(**TIMM["vit_augreg"])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(TransferError, match="pos_embed"):
        load_foreign(FIXTURES / "vit.npz", network, "vit-big-vision")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def published(width, depth, mlp, patch, tokens, classes, *, old=False, pooling=False, prefix=""):
    """Return the names and shapes of a published ViT, written from big_vision's modules."""
    heads, key = width // 64, 64

    def attention(at):
        for part in ("query", "key", "value"):
            yield f"{at}/{part}/kernel", (width, heads, key)
            yield f"{at}/{part}/bias", (heads, key)
        yield f"{at}/out/kernel", (heads, key, width)
        yield f"{at}/out/bias", (width,)

    def dense(at, into, out):
        yield f"{at}/kernel", (into, out)
        yield f"{at}/bias", (out,)

    def norm(at):
        yield f"{at}/scale", (width,)
        yield f"{at}/bias", (width,)

    def names():
        yield "embedding/kernel", (patch, patch, 3, width)
        yield "embedding/bias", (width,)
        yield "Transformer/posembed_input/pos_embedding" if old else "pos_embedding", (1, tokens, width)
        for layer in range(depth):
            at = f"Transformer/encoderblock_{layer}"
            yield from norm(f"{at}/LayerNorm_0")
            yield from attention(f"{at}/MultiHeadDotProductAttention_{int(old)}")
            yield from norm(f"{at}/LayerNorm_{1 + old}")
            yield from dense(f"{at}/MlpBlock_{3 * old}/Dense_0", width, mlp)
            yield from dense(f"{at}/MlpBlock_{3 * old}/Dense_1", mlp, width)
        yield from norm("Transformer/encoder_norm")
        if pooling:
            yield "MAPHead_0/probe", (1, 1, width)
            yield from attention("MAPHead_0/MultiHeadDotProductAttention_0")
            yield from norm("MAPHead_0/LayerNorm_0")
            yield from dense("MAPHead_0/MlpBlock_0/Dense_0", width, mlp)
            yield from dense("MAPHead_0/MlpBlock_0/Dense_1", mlp, width)
        else:
            yield "cls", (1, 1, width)
            yield from dense("head", width, classes)

    return {prefix + name: torch.empty(shape, device="meta") for name, shape in names()}


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("vit_base_patch16_224", published(768, 12, 3072, 16, 197, 1000, old=True)),
        ("vit_tiny_patch16_224", published(192, 12, 768, 16, 197, 1000, old=True, prefix="opt/target/")),
        ("vit_base_patch16_siglip_224", published(768, 12, 3072, 16, 196, 0, pooling=True, prefix="params/img/")),
    ],
)
def test_all_names_of_the_published_networks_map_onto_timms(name, source):
    import timm

    others = {"params/txt/head/kernel": torch.empty(2), "params/t": torch.empty(1), "params/b": torch.empty(1)}
    if "siglip" not in name:
        others = {"opt/state/step": torch.empty(()), "pre_logits/kernel": torch.empty(1)}
    with torch.device("meta"):
        network = timm.create_model(name)
    renamed = apply_rules({**source, **others}, RULES["vit-big-vision"].rules)
    assert renamed.unmatched == ()
    assert set(renamed.left_out) == set(others)
    here = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in renamed.tensors.items()} == here
    if "tiny" not in name:  # the same from the network's side: as many numbers here as there
        assert sum(tensor.numel() for tensor in source.values()) == sum(p.numel() for p in network.parameters())


def test_bfloat16_comes_back_as_it_was_written():
    assert read_npz(FIXTURES / "halves.npz")["scale"].equal(torch.tensor([1.5, -2.0, 3.25], dtype=torch.bfloat16))


def test_objects_are_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    np.savez(tmp_path / "bomb.npz", w=np.asarray([Bomb()], dtype=object))
    with pytest.raises(CheckpointError, match="'w' is an array of Python objects"):
        read_npz(tmp_path / "bomb.npz")
    assert not (tmp_path / "ran").exists()


def test_damaged_files_are_refused(tmp_path):
    whole = (FIXTURES / "vit.npz").read_bytes()
    path = tmp_path / "cut.npz"
    for length in (1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut\.npz"):
            read_foreign(path, "npz")
    changed = bytearray(whole)
    changed[300] ^= 0xFF  # inside the first array: the checksum of the archive tells
    path.write_bytes(changed)
    with pytest.raises(CheckpointError, match="damaged"):
        read_npz(path)
    with pytest.raises(CheckpointError, match="there is no file"):
        read_npz(tmp_path / "none.npz")
    np.save(tmp_path / "single.npy", np.zeros(2))
    with pytest.raises(CheckpointError, match="single array without a name"):
        read_npz(tmp_path / "single.npy")
