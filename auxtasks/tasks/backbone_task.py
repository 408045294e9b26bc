"""What every pretraining objective is: a backbone, what is trained beside it, and how both go to a folder and back."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from auxtasks import checkpoint
from auxtasks.backbones.base import Backbone
from auxtasks.training.objective import Objective

__all__ = ["BackboneTask"]


class BackboneTask(Objective):
    """Owns a backbone, which is exported alone; all else that it trains is kept beside it.

    Args:
        backbone: what is pretrained.

    Example:
        >>> import tempfile
        >>> from auxtasks.backbones import convnet
        >>> from auxtasks.tasks import FacePairs
        >>> task: BackboneTask = FacePairs(convnet(size=16, widths=[8], blocks=[1], embedding=8))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     task.save(Path(folder), {"pretrained_on": "faces"})
        ...     print(sorted(path.name for path in Path(folder).iterdir()))
        ...     task.restore(Path(folder))
        ['backbone', 'task']
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    @property
    @abstractmethod
    def description(self) -> str:
        """What a backbone from here was pretrained on, in a few words, for its model card."""

    @property
    def settings(self) -> Mapping[str, object]:
        """JSON values that make this task what it is; a run resumes with the same ones only. Subclasses add theirs."""
        return {"backbone": self.backbone.family.name, "backbone arguments": dict(self.backbone.family.arguments)}

    @property
    def saved_facts(self) -> Mapping[str, object]:
        """JSON values beside the head's weights, for who uses them without this class. Subclasses may add theirs."""
        return {"task": type(self).__name__}

    def save(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write ``backbone/`` and ``task/`` into a folder."""
        self.backbone.provenance = dict(provenance)
        self.backbone.save_pretrained(folder / "backbone")
        head = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("backbone.")}
        with checkpoint.atomic_folder(folder / "task") as place:
            checkpoint.write_tensors(place / "model.safetensors", head)
            checkpoint.write_json(place / "config.json", self.saved_facts)

    def restore(self, folder: Path) -> None:
        """Read ``backbone/`` and ``task/`` into this task."""
        weights = checkpoint.read_tensors(folder / "backbone" / "model.safetensors")
        head = checkpoint.read_tensors(folder / "task" / "model.safetensors")
        prefixed = {f"backbone.module.{name}": tensor for name, tensor in weights.items()}
        checkpoint.load_strictly(self, {**prefixed, **head}, folder)
