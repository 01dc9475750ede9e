"""Floor 2: the method, and what both training and sampling need."""

from MaskGIL.config import load_config
from MaskGIL.decoding import decode, mar_plan
from MaskGIL.masking import SCHEDULES
from MaskGIL.pipeline import Pipeline

__all__ = ["SCHEDULES", "Pipeline", "decode", "load_config", "mar_plan"]
