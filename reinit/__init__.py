"""How one cell is run: data, surgery on the network, training with DeepSpeed, evaluation.

Law: imports `jobs`, never `jobs.cli` and never `aggregate`; torch, transformers, datasets and deepspeed live here alone.
"""
