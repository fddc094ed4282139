"""RecBole's ``run_recbole`` for our models: the same steps, without its sampler, with a checkpoint of tensors alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from logging import getLogger
from typing import Any

from mml_plugin.errors import UserError, nearest
from mml_plugin.hosts.recbole.plugging import MODELS, registered

# Users ranked at once: RecBole counts users times items into its batch size, and by default ranks one user at a time.
EVALUATION_FLOATS = 1 << 25
MAX_NORM = 10.0


def run(
    model: str,
    dataset: str,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    saved: bool = True,
) -> dict[str, Any]:
    """Train and evaluate one of our models inside RecBole; arguments and result as ``recbole.quick_start.run_recbole``.

    Differences: no negative sampler (``num_negs`` negatives are drawn on the device), ``clip_grad_norm`` is 10 and
    ``eval_batch_size`` as many users as fit 128 MB unless the configuration says otherwise, and the checkpoint holds
    tensors and plain values alone.

    Args:
        model: ``"SampledMF"`` or ``"SampledSimpleX"``.
        dataset: RecBole's name of the data set.
        config_file_list, config_dict: RecBole's configuration; ``loss`` and its parameters are keys of it.
        saved: keep and evaluate the best epoch.

    Returns:
        ``best_valid_score``, ``valid_score_bigger``, ``best_valid_result``, ``test_result``, and ``train_losses`` (the
        mean over each epoch's batches).

    Raises:
        UserError: for another model, a missing or wrong key, a RecBole that we do not know.
    """
    if model not in MODELS:
        raise UserError(f"there is no model {model!r} in the RecBole host; {nearest(model, MODELS)}")
    with registered():
        from recbole.config import Config
        from recbole.data import create_dataset, data_preparation
        from recbole.utils import get_model, init_logger, init_seed

        from mml_plugin.hosts.recbole.trainer import TensorTrainer

        config = Config(
            model=get_model(model),
            dataset=dataset,
            config_file_list=list(config_file_list or []),
            config_dict=dict(config_dict or {}),
        )
        init_seed(config["seed"], config["reproducibility"])
        init_logger(config)
        _without_sampler(config)
        if config["clip_grad_norm"] is None:
            config["clip_grad_norm"] = {"max_norm": MAX_NORM}
        data = create_dataset(config)
        if "eval_batch_size" not in config.external_config_dict:
            config["eval_batch_size"] = max(1, min(1024, EVALUATION_FLOATS // data.item_num)) * data.item_num
        getLogger().info(data)
        train_data, valid_data, test_data = data_preparation(config, data)
        init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
        network = get_model(model)(config, train_data._dataset).to(config["device"])
        getLogger().info(network)
        trainer = TensorTrainer(config, network)
        score, result = trainer.fit(train_data, valid_data, saved=saved, show_progress=config["show_progress"])
        test = trainer.evaluate(test_data, load_best_model=saved, show_progress=config["show_progress"])
        return {
            "best_valid_score": score,
            "valid_score_bigger": config["valid_metric_bigger"],
            "best_valid_result": result,
            "test_result": test,
            "train_losses": [total / len(train_data) for total in trainer.train_loss_dict.values()],
        }


def _without_sampler(config: Any) -> None:
    """Replace RecBole's sampling by none, and say so where the user asked for it."""
    if config.external_config_dict.get("train_neg_sample_args"):
        getLogger().warning("train_neg_sample_args is not used: num_negs negatives are drawn on the device")
    config["train_neg_sample_args"] = {
        "distribution": "none",
        "sample_num": "none",
        "alpha": "none",
        "dynamic": False,
        "candidate_num": 0,
    }
