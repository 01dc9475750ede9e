"""Floor 2: the method, and what both training and sampling need."""

try:
    from MaskGIL.config import load_config
    from MaskGIL.decoding import decode
    from MaskGIL.masking import SCHEDULES
    from MaskGIL.pipeline import Pipeline
    from MaskGIL.plans import ar_plan, hybrid_plan, mar_plan
except ModuleNotFoundError as error:
    if not error.name or error.name.partition(".")[0] in ("MaskGIL", "Network"):
        raise
    raise ModuleNotFoundError(
        f"This Python has no {error.name}: make setup installs all that is needed into .venv, and "
        ". .venv/bin/activate takes that Python in this shell.",
        name=error.name,
    ) from None

__all__ = [
    "SCHEDULES",
    "Pipeline",
    "ar_plan",
    "decode",
    "hybrid_plan",
    "load_config",
    "mar_plan",
]
