"""What is run and what comes back: cells, studies, results, the store, manifests and the command.

Law: imports neither `reinit` nor `aggregate` (only `jobs.cli` may, inside command bodies), and never torch,
transformers, datasets or deepspeed.
"""

__version__ = "0.1.0"
