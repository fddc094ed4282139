# A script of the same shape as reczoo's matching scripts, written for the tests of `mml run`: it changes into its own
# folder, imports `src` and `recbox_version` from there, binds recbox's functions by name and knows nothing of us.
import os

os.chdir(os.path.dirname(os.path.realpath(__file__)))
import argparse
import logging
import sys
from pathlib import Path

import recbox_version
import src
from recbox import datasets
from recbox.matching.features import FeatureEncoder, FeatureMap
from recbox.matching.pytorch.dataloaders import h5_generator
from recbox.utils import load_config, print_to_json, print_to_list, set_logger
from recbox.utils.torch_utils import seed_everything


def build(params):
    folder = os.path.join(params["data_root"], params["dataset_id"])
    described = os.path.join(folder, "feature_map.json")
    encoder = FeatureEncoder(**params)
    if not os.path.exists(described):
        datasets.build_dataset(encoder, **params)
    for key, name in (("train_data", "train.h5"), ("valid_data", "valid.h5"), ("item_corpus", "item_corpus.h5")):
        params[key] = os.path.join(folder, name)
    found = FeatureMap(
        params["dataset_id"], folder, params["query_index"], params["corpus_index"], params["label_col"]["name"]
    )
    found.load(described)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="./config")
    parser.add_argument("--expid")
    parser.add_argument("--gpu", type=int, default=-1)
    args = parser.parse_args()
    params = load_config(args.config, args.expid)
    params["gpu"] = args.gpu
    set_logger(params)
    logging.info(print_to_json(params))
    seed_everything(seed=params["seed"])
    feature_map = build(params)
    model = getattr(src, params["model"])(feature_map, **params)
    model.count_parameters()
    train_gen, valid_gen = h5_generator(feature_map, stage="train", **params)
    model.fit(train_gen, valid_generator=valid_gen, **params)
    model.load_weights(model.checkpoint)
    result = model.evaluate(train_gen, valid_gen)
    with open(Path(args.config).stem + ".csv", "a+") as stream:
        stream.write(f"[command] python {' '.join(sys.argv)},[exp_id] {args.expid},[val] {print_to_list(result)}\n")
