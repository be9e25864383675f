"""The claims of the paper, judged by what the frame holds."""

import pandas as pd

from aggregate.claim import Claim, Estimate, Part, Unit, Verdict

__all__ = ["Claim", "Estimate", "Part", "Unit", "Verdict", "evaluate"]


def evaluate(frame: pd.DataFrame) -> tuple[Claim, ...]:
    """E1 to E13, in this order, for every model and recipe of the frame."""
    raise NotImplementedError
