"""Pretrained models: where they lie, their tensors, their embedding table and tokenizer."""
