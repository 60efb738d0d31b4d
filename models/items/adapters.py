"""Side adapters on frozen hidden states: small networks beside an encoder that is never run (IISAN).

Fu et al., SIGIR 2024, arXiv 2404.02059, following the authors' code for cached states (GAIR-Lab/IISAN, Code_Cached).
With h_l an item's pooled state of layer l = 1 .. L:

    A(x) = x + W_up ReLU(W_down x + b_down) + b_up            one for each layer and network
    intra-modal   s_l = A_l(g_l h_l + (1 - g_l) s_(l-1)),                g_l = sigmoid(a_l / T),  s_0 = 0
    inter-modal   m_l = A_l(m_(l-1) + sum over modalities p of b_lp h_lp),  b_l = softmax(c_l / T),  m_0 = 0

T = 0.1. a and c start at zero, W_down and W_up at normal(0, 0.01), biases at zero. Each network's last state is mapped
to D. `fuse: sum` of these maps is the authors' linear map of the states side by side. The feature file decides which
layers there are; the authors take every other one (`extract --layers 2,4,6`, say).

Deviations: one linear map follows the last state (there: two or three in a row, with nothing between them); the code
also has an adapter at the embeddings, layer 0, which `extract --layers` does not store; hidden states are normalised as
`items.normalise` says (there: not at all); the weights b are for any number of modalities (there: two, with one
sigmoid); the adapters train at the rate of the rest (there: half of it).

Letters: n items asked for, I items, D model width, F feature width of a modality, L layers, P modalities.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.items.frozen import own_rows, start_length
from models.shared.representation import ItemRepresentation, ItemsConfig, linear

TEMPERATURE = 0.1  # T
ADAPTER_STD = 0.01
SAMPLE = 1024  # items on which the scale of last states is measured


class Adapter(nn.Module):
    """A(x): a bottleneck beside the identity."""

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down = linear(width, bottleneck, ADAPTER_STD)
        self.up = linear(bottleneck, width, ADAPTER_STD)

    def forward(self, states: Tensor) -> Tensor:
        """Return adapted states (n, F)."""
        adapted: Tensor = states + self.up(self.down(states).relu())
        return adapted


class IntraModal(nn.Module):
    """The side network of one modality."""

    def __init__(self, layers: int, width: int, bottleneck: int) -> None:
        super().__init__()
        self.adapters = nn.ModuleList([Adapter(width, bottleneck) for _ in range(layers)])
        self.gates = nn.Parameter(torch.zeros(layers))  # a

    def forward(self, layers: Tensor) -> Tensor:
        """Return the last states s_L (n, F) from hidden states (n, L, F)."""
        state = torch.zeros_like(layers[:, 0])
        gates = torch.sigmoid(self.gates / TEMPERATURE)
        for adapter, gate, hidden in zip(self.adapters, gates, layers.unbind(1), strict=True):
            state = adapter(gate * hidden + (1 - gate) * state)
        return state


class InterModal(nn.Module):
    """The side network that all modalities share."""

    def __init__(self, modalities: int, layers: int, width: int, bottleneck: int) -> None:
        super().__init__()
        self.adapters = nn.ModuleList([Adapter(width, bottleneck) for _ in range(layers)])
        self.gates = nn.Parameter(torch.zeros(layers * modalities))  # c; flat, because vectors never decay

    def forward(self, modalities: Sequence[Tensor]) -> Tensor:
        """Return the last states m_L (n, F) from the hidden states (n, L, F) of each of P modalities."""
        state = torch.zeros_like(modalities[0][:, 0])
        shares = torch.softmax(self.gates.view(-1, len(modalities)) / TEMPERATURE, dim=1)
        for number, adapter in enumerate(self.adapters):
            pairs = zip(shares[number], modalities, strict=True)
            state = adapter(state + torch.stack([share * hidden[:, number] for share, hidden in pairs]).sum(0))
        return state


class AdapterItems(ItemRepresentation):
    """One modality's intra-modal side network and a linear map to D."""

    def __init__(self, frozen: Tensor, config: ItemsConfig, dim: int, present: Tensor | None = None) -> None:
        """Take normalised hidden states (I, L, F); `present` (I,) bool marks items that have their own."""
        super().__init__(len(frozen), dim)
        self.frozen: Tensor
        self.register_buffer("frozen", frozen, persistent=False)
        _, layers, width = frozen.shape
        self.side = IntraModal(layers, width, config.hidden or config.dim)
        self.project = _projection(self.side, frozen[_sample(frozen, present)], config, dim)

    def forward(self, items: Tensor) -> Tensor:
        """Return the mapped last states."""
        vectors: Tensor = self.project(self.side(self.frozen[items]))
        return vectors

    def everything(self) -> Tensor:
        """Return those of all items, without copying the hidden states."""
        vectors: Tensor = self.project(self.side(self.frozen))
        return vectors


class InterItems(ItemRepresentation):
    """The inter-modal side network over the hidden states that the intra-modal ones hold, and a linear map to D."""

    def __init__(self, intra: Sequence[AdapterItems], config: ItemsConfig, dim: int) -> None:
        """Take the modalities; raise ValueError unless there are several, with equal numbers of layers and widths."""
        super().__init__(intra[0].n_items, dim)
        shapes = {tuple(part.frozen.shape[1:]) for part in intra}
        if len(intra) < 2 or len(shapes) > 1:
            told = ", ".join(str(tuple(part.frozen.shape[1:])) for part in intra)
            raise ValueError(
                "items.inter needs several feature files with the same number of layers and the same width; "
                f"given (L, F): {told}; set it to false, or extract such layers"
            )
        self._intra = tuple(intra)  # a tuple: the model holds the hidden states once, under their own parts
        layers, width = shapes.pop()
        self.side = InterModal(len(intra), layers, width, config.hidden or config.dim)
        sample = _sample(intra[0].frozen, None)
        self.project = _projection(self.side, [part.frozen[sample] for part in intra], config, dim)

    def forward(self, items: Tensor) -> Tensor:
        """Return the mapped last states."""
        vectors: Tensor = self.project(self.side([part.frozen[items] for part in self._intra]))
        return vectors

    def everything(self) -> Tensor:
        """Return those of all items, without copying the hidden states."""
        vectors: Tensor = self.project(self.side([part.frozen for part in self._intra]))
        return vectors


def _sample(frozen: Tensor, present: Tensor | None) -> Tensor:
    """Return some items (n,), spread over all that are present."""
    items = own_rows(torch.arange(len(frozen)), present)
    return items[torch.linspace(0, len(items) - 1, min(SAMPLE, len(items))).long()]


@torch.no_grad()
def _projection(side: nn.Module, hidden: Tensor | Sequence[Tensor], config: ItemsConfig, dim: int) -> nn.Linear:
    """Return a map to D with which items start at `init_std`, measured on a sample."""
    states: Tensor = side(hidden)
    return linear(states.shape[1], dim, config.init_std / start_length(states))
