"""One training step: scores, loss, gradients, parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from mml_plugin.engine.backends.base import Backend, PlainUsers, TableState
from mml_plugin.engine.declaration import Declaration
from mml_plugin.engine.optimiser import FusedAdam, GeneralOptimiser
from mml_plugin.engine.scores import TableGradient, sampled_scores
from mml_plugin.engine.trained import Loss
from mml_plugin.engine.user_tower import RaggedHistories, UserTower
from mml_plugin.errors import UserError


@dataclass(frozen=True)
class Batch:
    """What a step trains on; all random draws are made.

    Attributes:
        users: ``[B]`` rows of the user table.
        index: ``[B, 1+N]`` rows of the item table, column 0 the positive.
        history: ragged histories, where the tower needs them.
        mask: dropout factors of the user vector ``[B, width]``, or None.
        attention_mask: dropout factors of the attention weights, or None.
    """

    users: Tensor
    index: Tensor
    history: RaggedHistories | None = None
    mask: Tensor | None = None
    attention_mask: Tensor | None = None


@dataclass(frozen=True)
class StepResult:
    """What a step says.

    Attributes:
        loss: the total loss, regulariser included, of the parameters before the step; the regulariser of a table that
            the optimiser delays comes with its ``settle``.
        y_pred: ``[B, 1+N]`` as the loss saw it.
        gradient: dL/dy_pred.
    """

    loss: Tensor | float
    y_pred: Tensor
    gradient: Tensor


class Step:
    """Trains a declared model one batch at a time.

    Args:
        model: the declaration.
        parameters: name -> every trained parameter.
        states: name -> its state.
        tower: user vectors.
        loss: ``forward(y_pred, y_true)``; with ``needs_users`` also ``users``.
        optimiser: updates the parameters.
        backend: computes scores.
        batch_penalty: lambda of an L2 term on the batch's rows, (lambda/2)(|u|^2 + |p|^2 + sum |n|^2)/B, as BSL's code
            has it; 0 for none.

    Raises:
        UserError: for a batch penalty on a model that is more than a user and an item table.
    """

    def __init__(
        self,
        model: Declaration,
        parameters: Mapping[str, nn.Parameter],
        states: Mapping[str, TableState],
        tower: UserTower,
        loss: Loss,
        optimiser: FusedAdam | GeneralOptimiser,
        backend: Backend,
        batch_penalty: float = 0.0,
    ) -> None:
        if batch_penalty:
            _check_two_tables(model)
        self.model, self.tower, self.loss = model, tower, loss
        self.optimiser, self.backend, self.batch_penalty = optimiser, backend, batch_penalty
        self.parameters, self.states = dict(parameters), dict(states)
        self._state_of = {id(parameter): self.states[name] for name, parameter in self.parameters.items()}
        self._name_of = {id(parameter): name for name, parameter in self.parameters.items()}
        of_loss = {id(p) for p in loss.parameters()} if isinstance(loss, nn.Module) else set()
        self._loss_parameters = {name: p for name, p in self.parameters.items() if id(p) in of_loss}
        # By shape: a captured step reads its labels' memory after a short batch needed others.
        self._labels: dict[torch.Size, Tensor] = {}

    def __call__(self, batch: Batch) -> StepResult:
        """Train on one batch."""
        plain = self._plain_users(batch)
        loss, y_pred, gradient = self._autograd(batch) if plain is None else self._kernels(plain, batch)
        total = loss.detach() + self.optimiser.penalty()
        if self.batch_penalty:
            total = total + self._add_batch_penalty(batch)
        self.optimiser.step()
        return StepResult(total, y_pred, gradient)

    def _plain_users(self, batch: Batch) -> PlainUsers | None:
        model = self.model
        biased = model.item_bias is not None or model.user_bias is not None or model.global_bias is not None
        if biased or model.item_table is None or self.tower.needs_history or model.similarity == "sigmoid":
            return None
        return self.backend.plain_users(
            model.user_table.detach(), batch.users, batch.mask, model.similarity == "cosine", self.tower.dropout_first
        )

    def _kernels(self, users: PlainUsers, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Both towers by the backend's kernels; autograd sees the loss alone."""
        table = cast(nn.Parameter, self.model.item_table)
        state, weight = self._state_of[id(table)], table.detach()
        inverse = self.backend.inverse_norms(state) if self.model.similarity == "cosine" else None
        y_pred = self.backend.scores(users.vectors, weight, batch.index, inverse)
        loss, gradient = self._differentiate(y_pred, batch.users)
        by_user = self.backend.user_gradient(gradient, weight, batch.index, inverse)
        found = gradient, y_pred, users.vectors, weight, batch.index, inverse
        state.deferred = self.backend.defer_item_gradient(*found) if self._may_defer(table) else None
        if state.deferred is None:
            self.backend.item_gradient(*found, state.grad, state.touched)
        users.backward(by_user, self._state_of[id(self.model.user_table)])
        return loss, y_pred, gradient

    def _may_defer(self, table: nn.Parameter) -> bool:
        """Whether all of the table's gradient can be deferred, and its optimiser would take it so."""
        if table is self.model.user_table or (self.batch_penalty and self.optimiser.clips):
            return False
        return self.optimiser.takes_deferred(self._name_of[id(table)])

    def _autograd(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Any model; the loss is differentiated apart from the towers, so that dL/dy_pred is at hand."""
        user = self.tower(batch.users, batch.history, batch.mask, batch.attention_mask, training=True)
        y_pred = self._scores(user.vectors, user.scale, batch)
        loss, gradient = self._differentiate(y_pred.detach(), batch.users)
        y_pred.backward(gradient)
        self._collect(user.leaves)
        return loss, y_pred.detach(), gradient

    def _differentiate(self, y_pred: Tensor, users: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and dL/dy_pred; the gradients of the loss's own parameters go to their states."""
        seen = y_pred.detach().requires_grad_()
        loss = self._loss(seen, users)
        own = self._loss_parameters
        # Not materialize_grads: in older torch the zeros that it makes require a gradient themselves.
        gradient, *found = torch.autograd.grad(loss, [seen, *own.values()], allow_unused=bool(own))
        for name, slope in zip(own, found):
            if slope is not None:
                self.states[name].add_dense(slope)
        return loss, torch.zeros_like(y_pred) if gradient is None else gradient.contiguous()

    def _scores(self, vectors: Tensor, scale: Tensor | None, batch: Batch) -> Tensor:
        model = self.model
        if model.item_tower is not None:
            y_pred = self._through_tower(vectors, scale, batch.index)
        else:
            assert model.item_table is not None
            state = self._state_of[id(model.item_table)]
            cosine = model.similarity == "cosine"
            y_pred = sampled_scores(
                vectors, model.item_table.detach(), batch.index, cosine, backend=self.backend,
                item_bias=model.item_bias, user_scale=scale,
                inverse_norms=self.backend.inverse_norms(state) if cosine else None,
                gradient=TableGradient(state.grad, state.touched), in_range=True,
            )  # fmt: skip
        if model.user_bias is not None:
            y_pred = y_pred + nn.functional.embedding(batch.users, model.user_bias)
        if model.global_bias is not None:
            y_pred = y_pred + model.global_bias
        return y_pred.sigmoid() if model.similarity == "sigmoid" else y_pred

    def _through_tower(self, vectors: Tensor, scale: Tensor | None, index: Tensor) -> Tensor:
        """The general path: the batch's distinct items through the model's own item tower."""
        assert self.model.item_tower is not None
        distinct, position = torch.unique(index.to(torch.int64), return_inverse=True)
        table, biases = self.model.item_tower(distinct), self.model.item_bias
        bias = None if biases is None else nn.functional.embedding(distinct, biases)
        return sampled_scores(
            vectors, table, position, item_bias=bias, user_scale=scale, backend=self.backend, in_range=True
        )

    def _loss(self, y_pred: Tensor, users: Tensor) -> Tensor:
        labels = self._labels.get(y_pred.shape)
        if labels is None:
            # float32 whatever the scores are, as recbox's labels.
            labels = torch.zeros(y_pred.shape, dtype=torch.float32, device=y_pred.device)
            labels[:, 0] = 1
            self._labels[y_pred.shape] = labels
        before = labels._version
        more = {"users": users} if getattr(self.loss, "needs_users", False) else {}
        loss = self.loss(y_pred, labels, **more)
        if labels._version != before:
            # A loss that writes on its labels, as far as autograd sees it, gets new ones in every step, as in recbox.
            del self._labels[y_pred.shape]
        return loss

    def _collect(self, leaves: tuple[tuple[Tensor, Tensor, Tensor], ...]) -> None:
        for table, rows, vectors in leaves:
            if vectors.grad is not None:
                self.backend.add_rows(rows, vectors.grad, self._state_of[id(table)])
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                self.states[name].add_dense(parameter.grad)
                parameter.grad = None

    def _add_batch_penalty(self, batch: Batch) -> Tensor | float:
        """Add the batch rows' L2 gradient and return its loss."""
        assert self.model.item_table is not None
        share = self.batch_penalty / len(batch.users)
        total: Tensor | float = 0.0
        for table, rows in ((self.model.user_table, batch.users), (self.model.item_table, batch.index.flatten())):
            total = total + share / 2 * self.backend.add_pull(self._state_of[id(table)], rows, share)
        return total


def _check_two_tables(model: Declaration) -> None:
    more = {
        "an item tower": model.item_tower,
        "a history": model.history,
        "a user bias": model.user_bias,
        "an item bias": model.item_bias,
        "a global bias": model.global_bias,
    }
    for name, part in more.items():
        if part is not None:
            raise UserError(f"regularizer_scope batch is for models of a user and an item table; this one has {name}")
