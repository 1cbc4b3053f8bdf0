"""Recipes carried out: torch's optimizers over the parameters of a model, with what single parameters ask for themselves.

adamw, adam     torch's. Adam adds its weight decay to the gradient (L2); AdamW takes it off the weight (Loshchilov & Hutter).
adafactor       torch's: factored second moments, update clipping and steps relative to a weight's size as in Shazeer & Stern,
                arXiv:1804.04235, without momentum. The rate is capped at 1/sqrt(step); betas and eps are not used.
muon            torch's, for matrices of the backbone (Jordan et al. 2024), with steps as large as AdamW's (Liu et al.,
                arXiv:2502.16982), so that both share a learning rate. Embeddings, head, vectors and what a backbone tunes by
                itself go to AdamW.

Weight decay applies to matrices and not to vectors (Radford et al. 2018, section 4.1), but for parameters that `tuned` names.
"""

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from architectures.backbone import SequenceMap, Tuning
from lab.budget import newton_schulz_flops, optimizer_flops
from lab.recipe import Recipe


class Together(torch.optim.Optimizer):
    """Optimizers of different parameters as one, with one state and one list of groups, so that it is saved as one."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part in self.parts:
            part.state, part.param_groups = self.state, [next(groups) for _ in part.param_groups]


def groups(recipe: Recipe, model: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups, with `lr` and `weight_decay` as the recipe and each module's `tuned` say."""
    tuned, found = _tuned(model), cast(dict[Tuning, list[nn.Parameter]], {})
    for parameter in model.parameters():
        tuning = tuned.get(parameter, Tuning(decay=parameter.ndim >= 2))
        found.setdefault(tuning, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": recipe.lr * tuning.lr_scale,
            "weight_decay": recipe.weight_decay if tuning.decay else 0.0,
        }
        for tuning, parameters in found.items()
    ]


def optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """The recipe's, over all parameters of the model."""
    asked = groups(recipe, model)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(asked, betas=recipe.betas, eps=recipe.eps, fused=fusible(model.parameters()))
    if recipe.optimizer == "adafactor":
        return torch.optim.Adafactor(asked)
    matrices = set(map(id, hidden_matrices(model))) if recipe.optimizer == "muon" else set()
    rest = _of(asked, lambda parameter: id(parameter) not in matrices)
    adamw = torch.optim.AdamW(rest, betas=recipe.betas, eps=recipe.eps, fused=fusible(model.parameters()))
    if not matrices:
        return adamw
    muon = torch.optim.Muon(_of(asked, lambda parameter: id(parameter) in matrices), adjust_lr_fn="match_rms_adamw")
    return Together([muon, adamw])


def fusible(parameters: Iterable[Tensor]) -> bool:
    """Whether torch has one update for all of them, which it has not where some are complex."""
    return not any(parameter.is_complex() for parameter in parameters)


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """What Muon updates: the backbone's matrices, but for those that a module tunes by itself."""
    tuned = _tuned(model)
    return [
        parameter
        for parameter in model.get_submodule("backbone").parameters()
        if parameter.ndim == 2 and not parameter.is_complex() and parameter not in tuned
    ]


def update_flops(recipe: Recipe, model: nn.Module) -> int:
    """Matrix products of one update, which budgets pay for: Muon's. What is done to each parameter alone is left out for all."""
    if recipe.optimizer != "muon":
        return 0
    return sum(newton_schulz_flops(tuple(parameter.shape)) for parameter in hidden_matrices(model))


def flops_apart(recipe: Recipe, model: nn.Module) -> int:
    """What one update does to each parameter alone, which no budget pays for."""
    matrices = hidden_matrices(model) if recipe.optimizer == "muon" else []
    mine = set(map(id, matrices))
    rest = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in mine]
    name = "adamw" if matrices else recipe.optimizer
    alone = optimizer_flops(name, map(_real, rest)) + optimizer_flops("muon", map(_real, matrices))
    return alone - update_flops(recipe, model)


def _real(parameter: nn.Parameter) -> tuple[int, ...]:
    """The shape, where a complex number is two."""
    return (*parameter.shape, 2) if parameter.is_complex() else tuple(parameter.shape)


def _tuned(model: nn.Module) -> dict[nn.Parameter, Tuning]:
    """What modules ask for their own parameters."""
    tuned: dict[nn.Parameter, Tuning] = {}
    for module in model.modules():
        if isinstance(module, SequenceMap):
            tuned |= {module.get_parameter(name): tuning for name, tuning in module.tuned.items()}
    return tuned


def _of(asked: list[dict[str, Any]], belongs: Callable[[nn.Parameter], bool]) -> list[dict[str, Any]]:
    """The groups with those of their parameters that belong, without empty ones."""
    some = [group | {"params": [parameter for parameter in group["params"] if belongs(parameter)]} for group in asked]
    return [group for group in some if group["params"]]
