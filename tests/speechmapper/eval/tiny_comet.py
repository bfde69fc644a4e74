"""Writes a tiny model in COMET's layout; executed by the Python of COMET's environment.

    python -I tiny_comet.py FOLDER [MORE]      FOLDER/hparams.yaml, FOLDER/checkpoints/model.ckpt, FOLDER/encoder/

The encoder is an XLM-R of random weights and of a few thousand parameters, with a tokenizer of single letters. MORE is
`code` (the checkpoint holds an object of a class besides) or `missing` (it lacks a tensor).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
import yaml
from comet.models import RegressionMetric
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")


def write_encoder(folder: Path) -> None:
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,"]
    tokenizer = Tokenizer(models.Unigram([(token, 0.0) for token in (*SPECIAL, *letters)], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    roles = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "cls_token": "<s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles, sep_token="</s>").save_pretrained(folder)
    XLMRobertaConfig(
        vocab_size=len(SPECIAL) + len(letters),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=130,
        initializer_range=0.5,
        pad_token_id=1,
    ).save_pretrained(folder)


def write_model(folder: Path, more: str = "") -> None:
    write_encoder(folder / "encoder")
    torch.manual_seed(0)
    hparams = {
        "encoder_model": "XLM-RoBERTa",
        "pretrained_model": str(folder / "encoder"),
        "layer_transformation": "sparsemax",
        "layer_norm": False,
        "hidden_sizes": [16, 8],
        "activations": "Tanh",
    }
    model = RegressionMetric(**hparams, load_pretrained_weights=False)
    weights = model.state_dict()
    if more == "missing":
        del weights["estimator.ff.0.weight"]
    contents = {
        "state_dict": weights,
        "hyper_parameters": {**hparams, "class_identifier": "regression_metric"},
        "pytorch-lightning_version": "2.0.0",
    }
    if more == "code":
        contents["arguments"] = argparse.Namespace(seed=0)
    (folder / "checkpoints").mkdir()
    torch.save(contents, folder / "checkpoints" / "model.ckpt")
    (folder / "hparams.yaml").write_text(yaml.safe_dump({**hparams, "class_identifier": "regression_metric"}))


if __name__ == "__main__":
    write_model(Path(sys.argv[1]), *sys.argv[2:])
