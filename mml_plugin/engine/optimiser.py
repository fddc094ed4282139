"""From gradients to parameters: whole-table L2, clipping and Adam in one dense pass, as recbox's step computes them.

recbox adds (lambda/2)|W|^2 of whole tables to the loss, clips the norm of the total gradient at 10 and steps with dense
Adam. Here the L2 term's gradient never exists as a tensor: |g + lambda W|^2 = sum over touched rows of |g|^2 +
2 lambda g.W, plus lambda^2 |W|^2, and |W|^2 falls out of the previous step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from mml_plugin.engine.backends.base import CLIP_EPSILON, ROUNDING, AdamConstants, Backend, LateRows, TableState

# More than the relative error of a sum of a handful of float64.
SUM_ERROR = 1e-14
# Steps that take the norm after a bound did not tell, before the next bound is tried.
MEASURED = 15
# What torch.optim looks at in every step: the count, and NAdam's product.
ON_HOST = ("step", "mu_product")


@dataclass(frozen=True)
class Penalty:
    """A regulariser: ``l1 * |W|_1 + l2 / 2 * |W|^2``."""

    l1: float = 0.0
    l2: float = 0.0


class FusedAdam:
    """Dense Adam with L2 and clipping; every parameter is a :class:`TableState`.

    On a GPU the step count, the rate and the squared norms are tensors whose memory never changes, so that a step that
    was captured as a CUDA graph goes on counting when it is replayed.

    Args:
        states: parameter name -> state.
        backend: computes the passes.
        rate: learning rate.
        max_norm: clip norm of the total gradient; infinite does not clip.
        on_device: count on the states' device; by default where that is a GPU.
    """

    def __init__(
        self,
        states: Mapping[str, TableState],
        backend: Backend,
        rate: float,
        max_norm: float,
        on_device: bool | None = None,
    ) -> None:
        self.states, self.backend, self.max_norm = dict(states), backend, max_norm
        device = next((state.weight.device for state in self.states.values()), torch.device("cpu"))
        self._clock = _Clock(device, rate) if on_device or (on_device is None and device.type == "cuda") else None
        self._steps, self._rate = 0, rate
        self._squares: dict[str, Any] = {}
        self._late: dict[str, LateRows] = {}
        self._left_out = 0.0
        self._to_measure = 0
        self.measure()

    @property
    def capturable(self) -> bool:
        """Whether a replayed step does what a called one does."""
        return self._clock is not None

    @property
    def steps(self) -> int:
        """Steps done; on a GPU the host waits for the count."""
        return self._steps if self._clock is None else int(self._clock.steps)

    @property
    def rate(self) -> float:
        """The learning rate."""
        return self._rate

    @rate.setter
    def rate(self, value: float) -> None:
        self._rate = value
        if self._clock is not None:
            self._clock.rate.fill_(value)

    def measure(self) -> None:
        """Renew the norms after somebody else wrote the weights (reload, resume); who does so settles before."""
        for name, state in self.states.items():
            state.measure()
            square = state.squared_norms.sum(dtype=torch.float64)
            self._keep(name, square if square.is_cuda or self.capturable else float(square))

    def _keep(self, name: str, square: Tensor | float) -> None:
        known = self._squares.get(name)
        if self.capturable and isinstance(known, Tensor):
            known.copy_(square)  # type: ignore[arg-type]
        else:
            self._squares[name] = square

    def penalty(self) -> Tensor | float:
        """The regulariser's part of the loss at the current weights, but for the late tables'."""
        total: Tensor | float = 0.0
        for name, state in self.states.items():
            if state.decay and name not in self._late:
                total = total + state.decay / 2 * self._squares[name]
        return total

    def delay(self, name: str) -> bool:
        """Let the rows of a table take their steps when they are read, until :meth:`settle`; whether it is so now.

        A gradient that a broken-off step has left behind is forgotten: it belongs to no row that a step would announce.
        """
        self._settle_rows()
        state = self.states[name]
        late = None if self.capturable else self.backend.late_rows(state)
        if late is not None:
            self._late[name] = late
            state.forget_gradient()
        return late is not None

    def read(self, name: str, rows: Tensor) -> None:
        """Announce the rows of a delayed table that the coming step reads, before it does."""
        if name in self._late:
            self._late[name].read(rows)

    @property
    def clips(self) -> bool:
        """Whether the total gradient's norm has a limit."""
        return not math.isinf(self.max_norm)

    def takes_deferred(self, name: str) -> bool:
        """Whether the coming step can take the table's gradient as ``Backend.defer_item_gradient`` returns it."""
        return name not in self._late and not self.capturable

    def settle(self) -> float:
        """Bring all tables up to date, and delay none any more; returns the penalties that no step has reported."""
        self._settle_rows()
        self._late.clear()
        left_out, self._left_out = self._left_out, 0.0
        return left_out

    def _settle_rows(self) -> None:
        for name, late in self._late.items():
            settled = late.settle()
            if settled is None:
                continue
            self._keep(name, settled.square)
            if self.states[name].decay:
                self._left_out += self.states[name].decay / 2 * settled.before

    def step(self) -> None:
        """Clip, step, clear the gradients."""
        clip = self._clip()
        constants = self._constants()
        dense = {name: state for name, state in self.states.items() if name not in self._late}
        stepped = self.backend.adam(list(dense.values()), constants, clip) if dense else []
        for name, square in zip(dense, stepped):
            self._keep(name, square)
        for late in self._late.values():
            late.step(constants, cast(float, clip))
        if any(late.full for late in self._late.values()):
            self._settle_rows()

    def _constants(self) -> AdamConstants:
        """Count the step."""
        if self._clock is None:
            self._steps += 1
            return AdamConstants.at(self._steps, self._rate)
        self._clock.steps.add_(1)
        return self.backend.adam_constants(self._clock.steps, self._clock.rate)

    def _clip(self) -> Tensor | float:
        if not self.clips:
            return 1.0
        if self._surely_short():
            return 1.0
        if self._late:
            factor = self._late_clip()
            if factor is not None:
                return factor
            self._settle_rows()
        squared = self._squared_norm(self._squares)
        if isinstance(squared, Tensor):
            return self.backend.clip_factor(squared, self.max_norm)
        return self._factor(squared)

    def _surely_short(self) -> bool:
        """Whether a bound of the norm, where one is cheaper than the norm, tells already that nothing is clipped."""
        if all(state.deferred is None for state in self.states.values()):
            return False
        if self._to_measure:
            self._to_measure -= 1
            return False
        late, squares = self._late, self._squares
        norms = [late[name].bound if name in late else squares[name] ** 0.5 for name in self.states]
        bound = self.backend.gradient_norm_bound(list(self.states.values()), norms)
        if bound is not None and ROUNDING * (bound + CLIP_EPSILON) <= self.max_norm:
            return True
        self._to_measure = MEASURED
        return False

    def _late_clip(self) -> float | None:
        """The factor where what late rows can add to the norm does not change it, as it is rounded; else None."""
        least = self._squared_norm({**self._squares, **dict.fromkeys(self._late, 0.0)})
        most = least + sum((self.states[name].decay * late.bound) ** 2 for name, late in self._late.items())
        # The sum with the true norms in it may be rounded to either side.
        least, most = least * (1 - SUM_ERROR), most * (1 + SUM_ERROR)
        dtype = next(iter(self.states.values())).weight.dtype
        one, other = torch.tensor([self._factor(least), self._factor(most)], dtype=dtype).tolist()
        return one if one == other else None

    def _factor(self, squared: float) -> float:
        # In this order a gradient that is no number makes the factor none, as in clip_grad_norm_.
        return min(self.max_norm / (math.sqrt(max(squared, 0.0)) + CLIP_EPSILON), 1.0)

    def _squared_norm(self, squares: Mapping[str, Any]) -> Any:
        return self.backend.squared_gradient_norm(list(self.states.values()), [squares[name] for name in self.states])

    def state_dict(self) -> dict[str, Any]:
        """Moments, step count and rate; no row is behind any more."""
        self._settle_rows()
        moments = {name: {"first": s.first, "second": s.second} for name, s in self.states.items()}
        return {"kind": "adam", "steps": self.steps, "rate": self.rate, "moments": moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned."""
        self.settle()
        self._steps, self.rate = state["steps"], state["rate"]
        if self._clock is not None:
            self._clock.steps.fill_(self._steps)
        for name, moments in state["moments"].items():
            self.states[name].first.copy_(moments["first"])
            self.states[name].second.copy_(moments["second"])


class _Clock:
    """Step count and learning rate, float64 tensors of one element."""

    def __init__(self, device: torch.device, rate: float) -> None:
        self.steps = torch.zeros((), dtype=torch.float64, device=device)
        self.rate = torch.full((), rate, dtype=torch.float64, device=device)


class GeneralOptimiser:
    """The plain way, for L1 terms and for optimizers other than Adam: whole gradients, clip_grad_norm_, torch.optim.

    Args:
        parameters: name -> parameter.
        states: name -> where the step collected its gradient.
        penalties: name -> regulariser.
        kind: a class of ``torch.optim``.
        rate: learning rate.
        max_norm: clip norm.
    """

    # torch.optim keeps the rate on the host, where a replayed step would not look for it.
    capturable = False

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        states: Mapping[str, TableState],
        penalties: Mapping[str, Penalty],
        kind: type[torch.optim.Optimizer],
        rate: float,
        max_norm: float,
    ) -> None:
        self.parameters, self.states, self.penalties = dict(parameters), dict(states), dict(penalties)
        self.max_norm = max_norm
        self.optimizer = kind(self.parameters.values(), lr=rate)  # type: ignore[call-arg]

    @property
    def clips(self) -> bool:
        """Whether the total gradient's norm has a limit."""
        return not math.isinf(self.max_norm)

    def takes_deferred(self, name: str) -> bool:
        """Never: torch.optim wants whole gradients."""
        return False

    @property
    def rate(self) -> float:
        """The learning rate."""
        return self.optimizer.param_groups[0]["lr"]

    @rate.setter
    def rate(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value

    def measure(self) -> None:
        """Renew the norms after somebody else wrote the weights."""
        for state in self.states.values():
            state.measure()

    def settle(self) -> float:
        """Nothing: every step moves every row."""
        return 0.0

    @torch.no_grad()
    def penalty(self) -> Tensor | float:
        """The regulariser's part of the loss at the current weights."""
        total: Tensor | float = 0.0
        for name, parameter in self.parameters.items():
            term = self.penalties.get(name, Penalty())
            if term.l1:
                total = total + term.l1 * parameter.abs().sum(dtype=torch.float64)
            if term.l2:
                total = total + term.l2 / 2 * parameter.square().sum(dtype=torch.float64)
        return total

    @torch.no_grad()
    def step(self) -> None:
        """Complete the gradients, clip, step, clear."""
        for name, parameter in self.parameters.items():
            term, state = self.penalties.get(name, Penalty()), self.states[name]
            grad = state.grad.reshape(parameter.shape)
            if term.l1:
                grad.add_(parameter.sign(), alpha=term.l1)
            if term.l2:
                grad.add_(parameter, alpha=term.l2)
            parameter.grad = grad
        if self.clips:
            nn.utils.clip_grad_norm_(self.parameters.values(), self.max_norm)
        self.optimizer.step()
        for name, parameter in self.parameters.items():
            parameter.grad = None
            self.states[name].grad.zero_()
            self.states[name].touched.zero_()
        self.measure()

    def state_dict(self) -> dict[str, Any]:
        """torch's state."""
        return {"kind": type(self.optimizer).__name__, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        # A checkpoint is read to the device; torch keeps these on the host, and would wait for each one there.
        for kept in self.optimizer.state.values():
            for name in ON_HOST:
                if isinstance(kept.get(name), Tensor):
                    kept[name] = kept[name].cpu()


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """The ``torch.optim`` class of a checked configuration's ``optimizer``, upper and lower case being the same."""
    known = {n.lower(): n for n in dir(torch.optim) if isinstance(getattr(torch.optim, n), type)}
    return getattr(torch.optim, known[name.lower()])


def create(
    name: str,
    parameters: Iterable[tuple[str, nn.Parameter]],
    states: Mapping[str, TableState],
    penalties: Mapping[str, Penalty],
    backend: Backend,
    rate: float,
    max_norm: float,
    on_device: bool | None = None,
) -> FusedAdam | GeneralOptimiser:
    """The fused Adam where it can do what is asked, else the general way.

    Args:
        name: a class of ``torch.optim``, upper and lower case being the same.
        parameters: (name, parameter) of all that is trained.
        states: name -> its state.
        penalties: name -> its regulariser; none for a name that is missing.
        backend: computes the fused pass.
        rate: learning rate.
        max_norm: the norm of the whole gradient that is clipped at.
        on_device: whether step count and learning rate are tensors, for a captured step; None: on a GPU.

    Raises:
        KeyError: for a name that ``torch.optim`` does not have; a checked configuration has none.
    """
    if name.lower() == "adam" and not any(p.l1 for p in penalties.values()):
        for key, state in states.items():
            state.decay = penalties.get(key, Penalty()).l2
        return FusedAdam(states, backend, rate, max_norm, on_device)
    return GeneralOptimiser(dict(parameters), states, penalties, optimizer_class(name), rate, max_norm)
