"""How one cell is run: data, surgery on the network, training with DeepSpeed, evaluation.

Law: imports `jobs`, never `jobs.cli` and never `aggregate`. Torch, transformers, datasets and deepspeed are
imported here and nowhere else.
"""
