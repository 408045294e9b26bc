"""FaceNet: the library's own module and files, and nothing in them that could run."""

import os
import pickle
import urllib.error
from pathlib import Path

import pytest
import safetensors.torch
import torch
from facenet_pytorch import InceptionResnetV1, fixed_image_standardization

from auxtasks.backbones import Backbone, facenet
from auxtasks.backbones.facenet import PUBLISHED
from auxtasks.backbones.weights import read_weights
from auxtasks.errors import BackboneError


class Runs:
    """Runs a command when unpickled by anything that lets it."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return (os.system, (f"touch {self.proof}",))


@pytest.fixture(scope="module")
def published_state():
    """Return a state dict with exactly the names of the published files: they hold the classifier too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        return InceptionResnetV1(classify=True, num_classes=13).state_dict()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Point the torch cache at an empty folder and make any use of the network fail."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def no_network(url, *args, **kwargs):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    return tmp_path / "torch" / "checkpoints"


def put(cache: Path, name: str, state: object, **options: bool) -> Path:
    cache.mkdir(parents=True)
    path = cache / PUBLISHED[name].rpartition("/")[2]
    torch.save(state, path, **options)
    return path


def test_a_saved_backbone_loads_into_the_library(tmp_path):
    backbone = facenet(size=80, seed=3).eval()
    backbone.save_pretrained(tmp_path / "backbone")
    library = InceptionResnetV1(pretrained=None).eval()
    found = library.load_state_dict(
        safetensors.torch.load_file(tmp_path / "backbone" / "model.safetensors"), strict=True
    )
    assert (found.missing_keys, found.unexpected_keys) == ([], [])
    x = torch.linspace(-1, 1, 3 * 80 * 80).view(1, 3, 80, 80)
    with torch.no_grad():
        assert torch.equal(backbone(x), library(x))
        assert backbone(x).norm() == pytest.approx(1, abs=1e-5)


def test_the_table_names_every_sub_module_once():
    owned = [path for stage in facenet(size=80).stages for path in stage.owns]
    assert sorted(owned) == sorted(name for name, _ in InceptionResnetV1().named_children())


def test_pixels_are_standardised_as_the_library_does():
    pixels = torch.randint(0, 256, (2, 3, 80, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = fixed_image_standardization(pixels.float())
    assert torch.allclose(facenet(size=80).input.normalize(pixels), expected, atol=1e-6)


@pytest.mark.parametrize("zipped", [True, False])  # the published files are of the older format
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_are_found_in_the_library_s_cache(name, zipped, cache, published_state, tmp_path):
    put(cache, name, published_state, _use_new_zipfile_serialization=zipped)
    backbone = facenet(name, size=80)
    assert backbone.provenance == {"pretrained_on": name}
    state = backbone.module.state_dict()
    assert state.keys() == {key for key in published_state if not key.startswith("logits.")}
    assert all(torch.equal(tensor, published_state[key]) for key, tensor in state.items())


def test_a_saved_backbone_needs_no_cache(cache, published_state, tmp_path):
    path = put(cache, "vggface2", published_state)
    facenet("vggface2", size=80).save_pretrained(tmp_path / "backbone")
    path.unlink()
    again = Backbone.from_pretrained(tmp_path / "backbone")
    assert torch.equal(again.module.last_linear.weight, published_state["last_linear.weight"])
    assert again.provenance == {"pretrained_on": "vggface2"}


def test_without_a_network_the_error_says_what_to_put_where(cache):
    with pytest.raises(BackboneError, match="could not download") as raised:
        facenet("vggface2", size=80)
    message = str(raised.value)
    place = cache / "20180402-114759-vggface2.pt"
    assert f"curl -L -o {place.name} {PUBLISHED['vggface2']}" in message
    assert f"put it at {place}" in message
    assert not place.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_path_of_weights_is_read(suffix, published_state, tmp_path):
    path = tmp_path / f"mine{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": published_state, "epoch": 3}, path)
    else:
        safetensors.torch.save_file(published_state, path)
    backbone = facenet(str(path), size=80)
    assert torch.equal(backbone.module.block8.conv2d.weight, published_state["block8.conv2d.weight"])
    assert backbone.provenance == {"pretrained_on": f"weights file {path.name}"}


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_wants_to_run_code_is_refused(zipped, cache, published_state, tmp_path):
    proof = tmp_path / "it-ran"
    path = put(cache, "vggface2", {**published_state, "x": Runs(proof)}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        BackboneError, match=r"a pickle that would run code when read, which is never done here.*system"
    ):
        facenet("vggface2", size=80)
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists()  # the file was armed


def test_a_bare_pickle_that_wants_to_run_code_is_refused(tmp_path):
    proof = tmp_path / "it-ran"
    path = tmp_path / "mine.pt"
    path.write_bytes(pickle.dumps(Runs(proof), protocol=2))
    with pytest.raises(BackboneError, match="is not a plain file of tensors"):
        facenet(str(path), size=80)
    assert not proof.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_damaged_file_is_refused(suffix, tmp_path):
    path = tmp_path / f"mine{suffix}"
    if suffix == ".pt":
        torch.save({"a": torch.zeros(1000)}, path)
    else:
        safetensors.torch.save_file({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(BackboneError, match="is damaged or cut short"):
        read_weights(path)
    path.write_bytes(b"")
    with pytest.raises(BackboneError, match="is damaged or cut short"):
        read_weights(path)


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "mine.pt"
    torch.save([torch.zeros(2)], path)
    with pytest.raises(BackboneError, match="holds no state dict, but a list"):
        read_weights(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(BackboneError, match="under 'epoch' it holds no tensor but int"):
        read_weights(path)
    with pytest.raises(BackboneError, match="there is no file"):
        read_weights(tmp_path / "nothing.pt")


def test_weights_that_leave_a_layer_random_are_refused(published_state, tmp_path):
    path = tmp_path / "mine.pt"
    torch.save({key: tensor for key, tensor in published_state.items() if not key.startswith("block8.")}, path)
    with pytest.raises(BackboneError, match=r"is no state dict of InceptionResnetV1: [\s\S]*Missing key.*block8"):
        facenet(str(path), size=80)


def test_unknown_weights_and_pictures_too_small_are_refused():
    with pytest.raises(
        BackboneError, match=r'neither a file nor one of vggface2, casia-webface\. Did you mean "vggface2"'
    ):
        facenet("vggface")
    with pytest.raises(BackboneError, match="size 74 is too small for facenet: use at least 75 pixels"):
        facenet(size=74)
    assert facenet(size=75).eval()(torch.zeros(1, 3, 75, 75)).shape == (1, 512)
