"""DSSM: two towers (Huang et al., CIKM 2013), as the benchmark MicroLens (arXiv 2309.15379) uses it for ids.

A user starts as a learned vector, an item as its item vector. Each side has a tower of its own, whose layers are
l_k = tanh(BatchNorm(W_k Dropout(l_k-1) + b_k)), BatchNorm only on request. Without layers, which is the default and the
benchmark's setting, this is matrix factorisation. The score is the inner product of the towers' outputs (benchmark), or
gamma times their cosine (paper: relevance in section 3.1, its smoothing in section 3.3). With items 'id+v' fused by
'concat' the score is the sum of an id half and a content half: the benchmark's "DSSM (ID+V)".

Deviations from the paper: a user number and an item vector stand in for the hashed words of query and document; the
loss is a softmax over the items of the batch (there: the clicked document against 4 drawn ones, which is loss 'sampled'
with `negatives: 4` here).

Deviations from MicroLens: other items of the same user are no negatives (`mask_own: false` makes them negatives, except
for the pair's own item); BatchNorm, off by default, sees each user and each item of a batch once; the projection of
content has a bias; ID+V has no content bias, which MicroLens leaves out of training and adds, untrained, to the scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from models.shared.layers import BatchNorm
from models.shared.pairwise import PairConfig, PairRecommender
from models.shared.recommender import TrainingFacts
from models.shared.representation import ItemRepresentation


@dataclass(frozen=True)
class Config(PairConfig):
    """Options of DSSM. User vectors start as wide as item vectors."""

    towers: tuple[int, ...] = ()
    """Widths of the layers in each tower; empty: no layers, so the vectors themselves are compared."""
    dropout: float = 0.0
    """Dropout before each layer, in [0, 1)."""
    norm: Literal["none", "batch"] = "none"
    """Normalisation before each tanh: 'batch' (BatchNorm) or 'none'."""
    similarity: Literal["dot", "cosine"] = "dot"
    """How the towers' outputs are compared: 'dot' (inner product) or 'cosine'."""
    gamma: float = 10.0
    """Factor on the cosine, above 0; 'cosine' only."""
    init_std: float = 0.02
    """Standard deviation of the entries of user vectors before training."""

    def __post_init__(self) -> None:
        """Refuse options that are out of range."""
        super().__post_init__()
        if any(width < 1 for width in self.towers):
            raise ValueError(f"dssm: towers is {list(self.towers)}; every width must be at least 1")
        if not 0 <= self.dropout < 1 or not self.gamma > 0 or not self.init_std > 0:
            raise ValueError(
                f"dssm: dropout {self.dropout} must be in [0, 1), gamma {self.gamma} > 0, init_std {self.init_std} > 0"
            )
        if self.norm not in ("none", "batch") or self.similarity not in ("dot", "cosine"):
            raise ValueError(f"dssm: norm is {self.norm!r} (none, batch), similarity {self.similarity!r} (dot, cosine)")


class DSSM(PairRecommender):
    """A tower over learned user vectors and a tower over item vectors."""

    config_class = Config
    paper = "Huang et al., CIKM 2013"

    def __init__(self, config: Config, items: ItemRepresentation, facts: TrainingFacts) -> None:
        super().__init__(config, items, facts)
        self.users = nn.Embedding(facts.n_users, items.dim)
        nn.init.normal_(self.users.weight, std=config.init_std)
        self.user_tower = _tower(items.dim, config)
        self.item_tower = _tower(items.dim, config)

    def encode(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs of the user tower (n, D) and of the item tower (m, D)."""
        user_ends, item_ends = self.user_tower(self.users(users)), self.item_tower(self.items(items))
        if self.config.similarity == "dot":
            return user_ends, item_ends
        return self.config.gamma * functional.normalize(user_ends), functional.normalize(item_ends)


def _tower(dim: int, config: Config) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inner, outer in pairwise((dim, *config.towers)):
        linear = nn.Linear(inner, outer, bias=config.norm == "none")  # BatchNorm has a bias of its own
        nn.init.xavier_normal_(linear.weight)
        if config.norm == "none":
            nn.init.zeros_(linear.bias)
        norm = [BatchNorm(outer)] if config.norm == "batch" else []
        layers += [nn.Dropout(config.dropout), linear, *norm, nn.Tanh()]
    return nn.Sequential(*layers)


MODEL = DSSM
