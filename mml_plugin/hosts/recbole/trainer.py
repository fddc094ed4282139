"""RecBole's Trainer with checkpoints of tensors and plain values: its own ones are pickles that torch 2.6 refuses."""

from __future__ import annotations

from typing import Any

import torch
from recbole.trainer import Trainer


class TensorTrainer(Trainer):
    """Training loop, early stopping, evaluation and logs are RecBole's; only the checkpoint's content differs."""

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        path = kwargs.get("saved_model_file", self.saved_model_file)
        state = {
            "model": str(self.config["model"]),
            "epoch": epoch,
            "cur_step": self.cur_step,
            "best_valid_score": float(self.best_valid_score),
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state, path)
        if verbose:
            self.logger.info("Saving current: %s", path)

    def resume_checkpoint(self, resume_file: str) -> None:
        """Go on from a checkpoint that this class wrote."""
        self.saved_model_file = str(resume_file)
        state = torch.load(resume_file, map_location=self.device, weights_only=True)
        self.start_epoch = state["epoch"] + 1
        self.cur_step = state["cur_step"]
        self.best_valid_score = state["best_valid_score"]
        self.model.load_state_dict(state["state_dict"])
        self.optimizer.load_state_dict(state["optimizer"])

    def evaluate(
        self,
        eval_data: Any,
        load_best_model: bool = True,
        model_file: str | None = None,
        show_progress: bool = False,
    ) -> Any:
        """RecBole's evaluation, after loading the best epoch's tensors where asked for."""
        if eval_data and load_best_model:
            path = model_file or self.saved_model_file
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["state_dict"])
        return super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)
