"""What timm, torchvision, transformers and facenet-pytorch offer, told before anything is built or fetched.

All of it is what the libraries say themselves, save for transformers, which has no list of the Hub: of the many
encoders there, a few that are often asked for are written down here, and any other works by its name.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch

from auxtasks.backbones.facenet import PUBLISHED
from auxtasks.backbones.timm import published_at
from auxtasks.backbones.torchvision_stages import ARCHITECTURES
from auxtasks.backbones.transformers_stages import ENCODERS
from auxtasks.errors import BackboneError, did_you_mean

__all__ = ["Entry", "catalogue", "counted"]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One model, with one set of published weights.

    Attributes:
        name: as `build` and recipes take it, such as ``"timm/resnet18.a1_in1k"``.
        kind: what it takes.
        input_size: of pictures (channels, height, width) in pixels; of texts (tokens,).
        parameters: how many, as it is built here; of torchvision with the classifier, as the library counts. Nothing
            where the library does not say, see `counted`.
        licence: of the published weights, or of the library's code and then marked so; nothing where none is stated.
        can_be_cut: whether `Backbone.lower` and `upper` exist; nothing where that shows only once it is built.
        source: address of the published weights; nothing where there are none.
    """

    name: str
    kind: Literal["image", "text"]
    input_size: tuple[int, ...]
    parameters: int | None
    licence: str | None
    can_be_cut: bool | None
    source: str | None

    @property
    def size(self) -> str:
        """The input's size as a reader writes it.

        Example:
            >>> Entry("facenet/vggface2", "image", (3, 160, 160), None, None, True, None).size
            '3 x 160 x 160'
        """
        return " x ".join(map(str, self.input_size)) if self.kind == "image" else f"{self.input_size[0]} tokens"


def catalogue(search: str | Sequence[str] = ()) -> list[Entry]:
    """List what can be built by name, from the libraries' own tables; nothing is built and no network asked.

    Args:
        search: words, or one string of them, that all must occur in a name, whatever their case; none gives all.

    Raises:
        BackboneError: no name has all the words; says the closest.

    Example:
        >>> for entry in catalogue("facenet"):
        ...     print(entry.name, entry.size, entry.licence)
        facenet/vggface2 3 x 160 x 160 mit (code)
        facenet/casia-webface 3 x 160 x 160 mit (code)
    """
    words = [word.lower() for word in (search.split() if isinstance(search, str) else search)]
    entries = [*_timm(), *_torchvision(), *_transformers(), *_facenet()]
    found = [entry for entry in entries if all(word in entry.name.lower() for word in words)]
    if not found:
        whole = " ".join(words)
        plain = [entry.name.partition("/")[2].partition(".")[0] for entry in entries]
        raise BackboneError(
            f'no model of timm, torchvision, transformers or facenet-pytorch has "{whole}" in its name.'
            f"{did_you_mean(whole, plain)} Of the Hugging Face Hub only a few are listed: there, any encoder of the "
            f"types {', '.join(ENCODERS)} works as hf/OWNER/NAME."
        )
    return found


def counted(entry: Entry) -> Entry:
    """Count the parameters of an entry that says nothing of them, by a network without values.

    Example:
        >>> [small] = catalogue("test_resnet")
        >>> counted(small).parameters
        372688
    """
    if entry.parameters is not None or not entry.name.startswith("timm/"):
        return entry
    import timm

    # A tensor of the device "meta" has a shape and nothing in it: neither memory nor random numbers are needed.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        module = timm.create_model(entry.name.removeprefix("timm/"), num_classes=0)
    return dataclasses.replace(entry, parameters=sum(tensor.numel() for tensor in module.parameters()))


# timm

CUT_BY_TIMM_CLASS = frozenset({"ConvNeXt", "ResNet", "VisionTransformer"})  # as the tables in auxtasks.backbones.timm


def _timm() -> Iterator[Entry]:
    """Yield every model of timm with each of its tags, and those without weights."""
    import timm
    from timm.models import get_pretrained_cfg

    for name in timm.list_models(include_tags=True):
        settings = get_pretrained_cfg(name)
        if settings is not None:
            yield Entry(
                name=f"timm/{name}",
                kind="image",
                input_size=tuple(settings.input_size),
                parameters=None,  # timm has no table of them
                licence=settings.license if published_at(settings) else None,
                can_be_cut=_cut_by_class(timm.model_entrypoint(name.partition(".")[0]), CUT_BY_TIMM_CLASS),
                source=published_at(settings),
            )


def _cut_by_class(builder: Any, classes: frozenset[str]) -> bool | None:
    """Tell by the class that a library's builder function says it returns, and else by those that its module knows."""
    kind = builder.__annotations__.get("return")
    if kind is not None:
        return getattr(kind, "__name__", kind) in classes
    return None if classes & vars(sys.modules[builder.__module__]).keys() else False


# torchvision


def _torchvision() -> Iterator[Entry]:
    """Yield every classification model that can be built, with each of its published weights."""
    from torchvision import models

    for name in models.list_models(module=models):
        if not _cut_by_class(models.get_model_builder(name), frozenset(ARCHITECTURES)):
            continue  # without a table it is not built at all
        for weights in models.get_model_weights(name):
            crop = weights.transforms.keywords["crop_size"]
            yield Entry(
                name=f"torchvision/{name}.{weights.name}",
                kind="image",
                input_size=(3, crop, crop),
                parameters=weights.meta["num_params"],
                licence=_licence_of(weights.meta.get("license")),
                can_be_cut=True,
                source=weights.url,
            )


# torchvision gives the licence of weights by address, and only of those that have one of their own.
LICENCES = {"https://github.com/facebookresearch/SWAG/blob/main/LICENSE": "cc-by-nc-4.0"}


def _licence_of(stated: str | None) -> str:
    return "bsd-3-clause (code)" if stated is None else LICENCES.get(stated, stated)


# transformers


@dataclasses.dataclass(frozen=True)
class Published:
    """An encoder on the Hugging Face Hub whose weights are safetensors: what its page and its config.json say.

    Attributes:
        name: on the Hub.
        model_type: of its configuration, one that `auxtasks.backbones.transformers_stages` cuts.
        parameters: without pooler and head, as it is built here.
        licence: as on its page.
        input_size: as in `Entry`.
    """

    name: str
    model_type: str
    parameters: int
    licence: str
    input_size: tuple[int, ...]


HUB = (
    Published("google-bert/bert-base-uncased", "bert", 108_891_648, "apache-2.0", (512,)),
    Published("google-bert/bert-base-cased", "bert", 107_719_680, "apache-2.0", (512,)),
    Published("google-bert/bert-large-uncased", "bert", 334_092_288, "apache-2.0", (512,)),
    Published("google-bert/bert-base-multilingual-cased", "bert", 177_262_848, "apache-2.0", (512,)),
    Published("FacebookAI/roberta-base", "roberta", 124_055_040, "mit", (512,)),
    Published("FacebookAI/roberta-large", "roberta", 354_310_144, "mit", (512,)),
    Published("distilbert/distilbert-base-uncased", "distilbert", 66_362_880, "apache-2.0", (512,)),
    Published("distilbert/distilroberta-base", "roberta", 81_527_808, "apache-2.0", (512,)),
    Published("answerdotai/ModernBERT-base", "modernbert", 149_014_272, "apache-2.0", (8192,)),
    Published("answerdotai/ModernBERT-large", "modernbert", 394_781_696, "apache-2.0", (8192,)),
    Published("sentence-transformers/all-MiniLM-L6-v2", "bert", 22_565_376, "apache-2.0", (512,)),
    Published("google/vit-base-patch16-224-in21k", "vit", 85_798_656, "apache-2.0", (3, 224, 224)),
    Published("google/vit-large-patch16-224-in21k", "vit", 303_301_632, "apache-2.0", (3, 224, 224)),
)


def _transformers() -> Iterator[Entry]:
    """Yield the encoders that are written down above."""
    for model in HUB:
        yield Entry(
            name=f"hf/{model.name}",
            kind="image" if ENCODERS[model.model_type].kind == "image" else "text",
            input_size=model.input_size,
            parameters=model.parameters,
            licence=model.licence,
            can_be_cut=True,
            source=f"https://huggingface.co/{model.name}",
        )


# facenet-pytorch

PARAMETERS_OF_FACENET = 23_482_624


def _facenet() -> Iterator[Entry]:
    """Yield the two published sets of weights of Inception-ResNet-v1."""
    for weights, url in PUBLISHED.items():
        yield Entry(f"facenet/{weights}", "image", (3, 160, 160), PARAMETERS_OF_FACENET, "mit (code)", True, url)
