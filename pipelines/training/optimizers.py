"""Optimisers: AdamW, and a lazy AdamW that updates only the rows of tables that a step used.

Letters: R rows of a table, n rows that a step used, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from inspect import unwrap
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from models.items.towers import towers_of

OptimizerName = Literal["adamw", "lazy"]


class _Uncompiled(Optimizer):
    """An optimiser that does not import torch's compiler.

    torch hides these methods from `torch.compile`, and imports the compiler (`torch._dynamo`) to do so, which takes
    about as long as importing torch itself. Nothing here is compiled, so the methods are used as they are below that.
    """

    add_param_group = unwrap(Optimizer.add_param_group)
    zero_grad = unwrap(Optimizer.zero_grad)
    state_dict = unwrap(Optimizer.state_dict)
    load_state_dict = unwrap(Optimizer.load_state_dict)


class AdamW(_Uncompiled, torch.optim.AdamW):
    """`torch.optim.AdamW`, without its import of torch's compiler."""

    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


def build_optimizer(model: nn.Module, name: OptimizerName, lr: float, weight_decay: float) -> Optimizer | None:
    """Return the optimiser of all parameters that train, or None if none do.

    Matrices and tables decay; vectors and biases never do. Each encoder that trains is a parameter group of its own,
    with its own learning rate (`items.encoder_lr`) if it has one. 'lazy' also switches the model's embedding tables
    (`nn.Embedding`) to sparse gradients, which hold only the rows of a batch.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        return None
    towers = [[p for p in tower.tower.parameters() if p.requires_grad] for tower in towers_of(model)]
    inside = {id(parameter) for parameters in towers for parameter in parameters}
    groups = _groups([p for p in trained if id(p) not in inside], weight_decay)
    for tower, parameters in zip(towers_of(model), towers, strict=True):
        groups += _groups(parameters, weight_decay, **({} if tower.lr is None else {"lr": tower.lr}))
    if name == "adamw":
        return AdamW(groups, lr=lr, fused=True)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.sparse = True
    return LazyAdamW(groups, lr=lr)


def _groups(parameters: Sequence[Tensor], weight_decay: float, **options: float) -> list[dict[str, Any]]:
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay, **options},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, **options},
    ]


class LazyAdamW(_Uncompiled):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) whose cost per table depends on the rows of a batch, not on R.

    Rows in a sparse gradient are updated as in AdamW, with bias correction by the number of all steps. Rows without a
    gradient keep their value and moments, which AdamW would go on changing by momentum and decay. This is the rule of
    `torch.optim.SparseAdam`, with decay. Dense gradients get plain AdamW. With 120,000 rows of width 4096 a dense step
    moves 14 GB, this one a few MB.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update all parameters once; ValueError for a closure, which is not supported."""
        if closure is not None:
            raise ValueError("LazyAdamW takes no closure; call step() after backward()")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return None

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            # the system hands out zeros lazily: rows that are never used take no memory
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        gradient = parameter.grad
        assert gradient is not None
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            rows, values = gradient.indices()[0], gradient.values()
            used = [tensor[rows] for tensor in (parameter, state["mean"], state["square"])]
            _adamw(used[0], values, used[1], used[2], float(state["step"]), group)
            for tensor, changed in zip((parameter, state["mean"], state["square"]), used, strict=True):
                tensor[rows] = changed
        else:
            _adamw(parameter, gradient, state["mean"], state["square"], float(state["step"]), group)


def _adamw(value: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, step: float, group: dict[str, Any]) -> None:
    """Update `value` (n, D) and its moments `mean` and `square` in place."""
    first, second = group["betas"]
    value.mul_(1 - group["lr"] * group["weight_decay"])
    mean.lerp_(gradient, 1 - first)
    square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
    spread = square.sqrt().div_((1 - second**step) ** 0.5).add_(group["eps"])
    value.addcdiv_(mean, spread, value=-group["lr"] / (1 - first**step))


def clip_gradients(parameters: Iterable[Tensor], most: float) -> None:
    """Scale all gradients, sparse ones included, so that their joint norm is at most `most`."""
    dense: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            dense.append(parameter.grad.values())
        else:
            dense.append(parameter.grad)
    if not dense:
        return
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in dense]))
    scale = (most / (norm + 1e-6)).clamp(max=1.0)
    for gradient in dense:
        gradient.mul_(scale)
