"""What the results mean: one frame of runs, and statistics, tables, figures and a report made from it.

Law: imports `jobs`, never `jobs.cli` and never `reinit`; never torch, transformers, datasets or deepspeed.
"""
