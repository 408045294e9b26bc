"""Model a layer's input with a restricted Boltzmann machine, whose hidden units are the layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn

from auxtasks.backbones.base import Backbone
from auxtasks.backbones.linear_map import LinearMap, linear_map
from auxtasks.energies import draw_bits, flip_one, pseudo_log_likelihood
from auxtasks.errors import LayerError, TrainingError
from auxtasks.features.layer_inputs import InputSummary
from auxtasks.seeding import torch_seed
from auxtasks.tasks.input_checks import refuse_outside_unit, refuse_unbounded_below, refuse_without_change
from auxtasks.tasks.layer_task import LayerTask, mean_square
from auxtasks.tasks.visible_units import BernoulliUnits, GaussianUnits, VisibleUnits
from auxtasks.training.health import TrivialLevel
from auxtasks.training.objective import StepOutput

__all__ = ["LayerRBM"]

DEAD = 1e-3  # mean activity

Visible = Literal["bernoulli", "gaussian"]


class LayerRBM(LayerTask):
    """Trains one layer of sigmoids as the hidden units of a restricted Boltzmann machine.

    The loss is a surrogate: ``mean(F(v+) - F(v-))``, with v+ from the data and v- from a Markov chain of k steps, both
    without gradient. Its gradient is that of contrastive divergence; its value is no likelihood and need not fall.
    Momentum and weight decay are the optimizer's (`OptimizerSettings`).

    Chains that begin at the data draw on each process for itself: N processes compute what one does in distribution,
    not number by number. Persistent chains are the same on all processes, and then so is the result. They, and the
    running activity, move once for every micro-batch: accumulation is refused for a task that has either.

    Args:
        backbone: its other layers stay as they are.
        layer: which one is trained: one dense or convolutional map with a sigmoid.
        visible: ``"bernoulli"`` for inputs in [0, 1], taken as probabilities; ``"gaussian"`` for real ones, with each
            feature's own standard deviation.
        gibbs_steps: k of CD-k: steps of the chain.
        persistent: whether the chain goes on where it stood at the step before (PCD), not at the data.
        chains: how many persistent chains; they are the same on every process.
        sample_visible: whether the chain draws visible units; False takes their means, which is less noise and no
            proper chain.
        sparsity_target, sparsity_cost: mean activity that hidden units are drawn to, and how hard (Hinton 2010, section
            11); the mean is a running one. A cost of 0 leaves it out.
        initial_scale: standard deviation of the weights that training begins with (Hinton 2010, section 8); None begins
            with those that the layer has.
        seed: of those weights, and of the persistent chains.

    Raises:
        LayerError: see `LayerTask`; a layer that is no linear map with a sigmoid.
        DataError: binary units for what is known to give values outside [0, 1].
        TrainingError: settings that make no task.

    Reference:
        Hinton, "Training products of experts by minimizing contrastive divergence", 2002; Tieleman, "Training
        restricted Boltzmann machines using approximations to the likelihood gradient", ICML 2008; Hinton, "A practical
        guide to training restricted Boltzmann machines", 2010.

    Example:
        >>> from auxtasks.backbones import mlp
        >>> task = LayerRBM(mlp(width=4, hidden=[3], activation="sigmoid"), "hidden1")
        >>> task(torch.ones(2, 4)).weight.item()
        2.0
    """

    def __init__(
        self,
        backbone: Backbone,
        layer: str,
        *,
        visible: Visible = "bernoulli",
        gibbs_steps: int = 1,
        persistent: bool = False,
        chains: int = 100,
        sample_visible: bool = True,
        sparsity_target: float = 0.1,
        sparsity_cost: float = 0.0,
        initial_scale: float | None = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone, layer)
        found = linear_map(backbone, layer)
        if found is None or found.activation != "sigmoid":
            raise LayerError(
                f'layer "{layer}" of {backbone.family.name} is no linear map with a sigmoid, so it cannot be the '
                'hidden units of a Boltzmann machine. Use an mlp with activation="sigmoid", or LayerAutoencoder.'
            )
        if found.module.bias is None:
            raise LayerError(f'layer "{layer}" of {backbone.family.name} has no bias, which a Boltzmann machine needs.')
        if visible not in get_args(Visible):
            raise TrainingError(f'visible is one of {", ".join(get_args(Visible))}, found "{visible}".')
        if gibbs_steps < 1 or chains < 1:
            raise TrainingError(f"gibbs_steps and chains are at least 1, found {gibbs_steps} and {chains}.")
        if not 0 < sparsity_target < 1 or sparsity_cost < 0:
            raise TrainingError(
                f"sparsity_target is a share between 0 and 1 and sparsity_cost at least 0, found {sparsity_target} and "
                f"{sparsity_cost}."
            )
        if visible == "bernoulli":
            refuse_unbounded_below(backbone, layer, 'visible="gaussian"')
        if initial_scale is not None and initial_scale <= 0:
            raise TrainingError(f"initial_scale is a standard deviation above 0, or None, found {initial_scale}.")
        self._linear = (found,)  # in a tuple, since its module is the backbone's own
        # Of a picture that a convolution takes, one bias for each channel.
        shape = found.shape if len(found.shape) == 1 else (found.shape[0], 1, 1)
        self.head: VisibleUnits = BernoulliUnits(shape) if visible == "bernoulli" else GaussianUnits(shape)
        self.kind = visible
        self.gibbs_steps = gibbs_steps
        self.persistent = persistent
        self.sample_visible = sample_visible
        self.sparsity_target = sparsity_target
        self.sparsity_cost = sparsity_cost
        self.initial_scale = initial_scale
        self.seed = seed
        self.register_buffer("activity", torch.full((found.module.weight.shape[0],), sparsity_target))
        # Hidden units of the persistent chains: what they send down makes the next visible ones.
        self.register_buffer("fantasies", torch.zeros(chains if persistent else 0, *self._hidden_shape()))
        self.register_buffer("chain_steps", torch.zeros((), dtype=torch.int64))
        self.activity: Tensor
        self.fantasies: Tensor
        self.chain_steps: Tensor

    @property
    def accumulates(self) -> bool:
        """Whether a batch may be cut into micro-batches: not where a forward moves chains or the running activity."""
        return not self.persistent and not self.sparsity_cost

    @property
    def linear(self) -> LinearMap:
        """The layer as a linear map."""
        return self._linear[0]

    @property
    def trivial_levels(self) -> Sequence[TrivialLevel]:
        """Besides, hidden units of which all are on, or all off, whatever comes."""
        dead = TrivialLevel("activity", DEAD, "below", f"the units of {self.layer} are all off", at_once=True)
        stuck = TrivialLevel("activity", 1 - DEAD, "above", f"the units of {self.layer} are all on", at_once=True)
        return [*super().trivial_levels, dead, stuck]

    def _hidden_shape(self) -> tuple[int, ...]:
        weight = self.linear.module.weight
        with torch.no_grad():
            return tuple(self.linear.up(torch.zeros(1, *self.linear.shape, device=weight.device)).shape[1:])

    @property
    def description(self) -> str:
        """What a backbone from here was pretrained on, in a few words."""
        chain = "persistent chains of" if self.persistent else "chains of"
        return f"layer-wise Boltzmann machines ({self.kind} visible units, {chain} {self.gibbs_steps})"

    @property
    def settings(self) -> Mapping[str, object]:
        """JSON values that make this task what it is."""
        return {
            **super().settings, "visible": self.kind, "gibbs steps": self.gibbs_steps, "persistent": self.persistent,
            "chains": len(self.fantasies), "sample visible": self.sample_visible,
            "sparsity": [self.sparsity_target, self.sparsity_cost], "initial scale": self.initial_scale,
            "chain seed": self.seed,
        }  # fmt: skip

    def refuse(self, summary: InputSummary) -> None:
        """Refuse inputs that binary units cannot be."""
        if self.kind == "bernoulli":
            refuse_outside_unit(self.layer, summary, 'visible="gaussian"')

    @torch.no_grad()
    def prepare(self, summary: InputSummary) -> None:
        """Refuse inputs that the visible units cannot be, and begin with biases that give their means.

        Raises:
            DataError: says what was found, where, and what to do.
        """
        refuse_without_change(self.layer, summary)
        self.refuse(summary)
        self.keep_trivial_error(summary)
        self.head.begin_with(self.layer, summary)
        if self.initial_scale is not None:
            self._begin_small(self.initial_scale)
        self.fantasies.zero_()
        self.chain_steps.zero_()
        self.activity.fill_(self.sparsity_target)

    def _begin_small(self, scale: float) -> None:
        weight, bias = self.linear.module.weight, self.linear.module.bias
        generator = torch.Generator().manual_seed(torch_seed(self.seed, f"initial weights of {self.layer}"))
        weight.copy_(torch.empty(weight.shape).normal_(0, scale, generator=generator))
        if bias is not None:
            bias.zero_()

    def decode(self, hidden: Tensor) -> Tensor:
        """Return the means of the visible units (B, ...) given hidden ones."""
        return self.head.means(self.linear.down(hidden)).view(-1, *self.input_shape)

    def reconstruction_loss(self, hidden: Tensor, clean: Tensor) -> Tensor:
        """Return how unlikely the true visible units are given hidden ones, (B,), in nats up to a constant."""
        return self.head.reconstruction_loss(self.linear.down(hidden), self._flat(clean))

    def _run_chain(self, hidden: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return visible units after k steps from hidden ones."""
        visible = self._visible_from(hidden, generator)
        for _ in range(self.gibbs_steps - 1):
            hidden = draw_bits(torch.sigmoid(self._up(visible)), generator)
            visible = self._visible_from(hidden, generator)
        return visible

    def _visible_from(self, hidden: Tensor, generator: torch.Generator | None) -> Tensor:
        means = self.head.means(self.linear.down(hidden))
        return self.head.draw(means, generator) if self.sample_visible else means

    def _chain_generator(self) -> torch.Generator:
        """Return the random numbers of the next step of the persistent chains: the same on every process."""
        seed = torch_seed(self.seed, "persistent chains", int(self.chain_steps))
        return torch.Generator(self.fantasies.device).manual_seed(seed)

    def forward(self, batch: Tensor) -> StepOutput:
        """Compute the surrogate of a micro-batch (B, ...) of the layer's inputs."""
        visible = self._flat(self.visible(batch))
        generator = self._chain_generator() if self.persistent else None
        negative = self._negative(visible, generator)
        # Both phases in one product: so their difference is rounded once, and the gradient is one product as well.
        both = self._up(torch.cat([visible, negative]))
        pre, negative_pre = both[: len(visible)], both[len(visible) :]
        if self.persistent and self.training:
            self.fantasies.copy_(draw_bits(torch.sigmoid(negative_pre.detach()), generator))
            self.chain_steps.add_(1)
        # The chains' mean, as often as there are items: so it is the same however a batch is split.
        loss = self.head.free_energy(visible, pre).sum()
        loss = loss - len(visible) * self.head.free_energy(negative, negative_pre).mean()
        metrics = {}
        if self.sparsity_cost:
            loss = loss + self.sparsity_cost * self._towards_sparsity(pre)
        if self.log_metrics:
            with torch.no_grad():
                units = torch.sigmoid(pre)
                metrics["activity"] = units.mean()
                metrics["reconstruction_error"] = mean_square(self.head.means(self.linear.down(units)) - visible).mean()
        return StepOutput(loss, loss.new_tensor(float(len(visible))), metrics)

    @torch.no_grad()
    def _negative(self, visible: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return v-: of chains that begin at the data, or of those that go on."""
        if self.persistent:
            return self._run_chain(self.fantasies, generator)
        return self._run_chain(draw_bits(torch.sigmoid(self._up(visible)), generator), generator)

    def _up(self, visible: Tensor) -> Tensor:
        """Return what hidden units get, in float32: bfloat16 keeps two digits of an energy, a sum of many terms."""
        return self.linear.up(visible).float()

    def free_energy(self, visible: Tensor) -> Tensor:
        """Return the free energy (B,) of visible units (B, ...), in nats."""
        return self.head.free_energy(visible, self._up(visible))

    def _flat(self, visible: Tensor) -> Tensor:
        return visible.flatten(1) if isinstance(self.linear.module, nn.Linear) else visible

    def _towards_sparsity(self, pre: Tensor) -> Tensor:
        """Return a term whose gradient moves each unit by how far its running mean activity is off the target.

        The gradient of the cross-entropy between target and activity with respect to what a unit gets is their
        difference; so the term is linear in it, and a sum over items.
        """
        axes = [axis for axis in range(pre.ndim) if axis != 1]
        with torch.no_grad():
            if self.training:
                mean = torch.sigmoid(pre).mean(dim=axes)
                if dist.is_initialized():  # of the global batch, of which each process has an equal share
                    dist.all_reduce(mean)
                    mean /= dist.get_world_size()
                self.activity.lerp_(mean, 0.1)
            off = (self.activity - self.sparsity_target).view(1, -1, *[1] * (pre.ndim - 2))
        return (off * pre).sum()

    def measure(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return reconstruction error, free energy and, of binary units, the pseudo-log-likelihood, item by item."""
        visible = self._flat(inputs)
        energy = self.free_energy(visible)
        found = {
            "reconstruction_error": mean_square(self.decode(self.encode(inputs)) - inputs),
            "free_energy": energy,
        }
        if self.kind == "bernoulli":
            generator = torch.Generator(visible.device).manual_seed(torch_seed(self.seed, "flips"))
            flipped = self.free_energy(flip_one(visible, generator))
            found["pseudo_log_likelihood"] = pseudo_log_likelihood(energy, flipped, visible[0].numel())
        return found
