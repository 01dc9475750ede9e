"""Plans: how many tokens each decoding step reveals, and which first.

A masked plan (MAR) reveals many tokens a step, a raster plan (AR) one, in raster order; a hybrid
begins as the one and goes on as the other. Stands on the schedules and the table of orders.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from MaskGIL.masking import SCHEDULES
from MaskGIL.orders import ORDERS, REMASK
from MaskGIL.sampling import SamplingConfig
from Network.config import UserError

RASTER = "raster"  # the order of the steps that an AR network answers


@dataclass(frozen=True)
class Step:
    """One decoding step: how many of the plan's tokens it reveals, and which first."""

    count: int
    progress: float  # 0 at the first step, 1 at the last
    order: str

    @property
    def kind(self) -> str:
        """ "ar" or "mar": which predictor is asked."""
        return "ar" if self.order == RASTER else "mar"


# What a network was trained for -> the kinds of steps that it answers, the best one first
OBJECTIVES = {"mar": ("mar",), "ar": ("ar",), "both": ("mar", "ar")}
PLANS = {"mar": ("mar",), "ar": ("ar",), "hybrid": ("ar", "mar")}  # plan -> kinds of its steps

# The published tables know these alone; elsewhere some of them have steps below one token
LEGACY_TOKENS, LEGACY_STEPS = 256, (4, 8, 12, 16, 32)
LEGACY_SCHEDULES = ("root", "linear", "square", "cosine", "arccos")


def mar_plan(
    num_tokens: int, num_steps: int, schedule: str = "arccos", order: str = "confidence"
) -> list[Step]:
    """Reveal `num_tokens` in `num_steps` along a schedule; each step at least one token.

    Behind step i the hidden share is schedule((i + 1) / num_steps), as in MaskGIT (Chang et al.,
    2022). Raises UserError unless 1 <= num_steps <= num_tokens, and for an unknown name.
    """
    return _steps(0, _scheduled_counts(num_tokens, num_steps, schedule), order)


def ar_plan(num_tokens: int) -> list[Step]:
    """Reveal `num_tokens` one after the other in raster order, as LlamaGen does."""
    return _steps(num_tokens, [], RASTER)


def hybrid_plan(
    num_tokens: int,
    num_ar: int,
    num_steps: int,
    schedule: str = "arccos",
    order: str = "confidence",
) -> list[Step]:
    """Reveal the first `num_ar` tokens as `ar_plan` does, the rest in `num_steps` as `mar_plan`.

    Progress runs over the whole: with none or all of the tokens one by one it is that plan. Raises
    UserError as `mar_plan`, and unless 0 <= num_ar <= num_tokens.
    """
    _check_share(num_ar, num_tokens)
    if num_ar == num_tokens:
        return ar_plan(num_tokens)
    return _steps(num_ar, _scheduled_counts(num_tokens - num_ar, num_steps, schedule), order)


def make_plan(num_tokens: int, sampling: SamplingConfig, objective: str = "mar") -> list[Step]:
    """The plan of `sampling` for weights of an objective.

    Raises UserError as its maker does, for counts that do not add up, for `legacy` where there is
    no table, and for `remask` where no step is masked.
    """
    kind = plan_kind(objective, sampling.plan)
    if kind == "ar":
        _check_keeps(sampling, "plan=ar")
        return ar_plan(num_tokens)
    if sampling.remask_by not in REMASK:
        raise UserError(f"Unknown remask_by {sampling.remask_by!r}. Known: {', '.join(REMASK)}.")
    num_ar = 0
    if kind == "hybrid":
        if sampling.num_ar is None:
            raise UserError("plan=hybrid needs num_ar=K: so many tokens are drawn one by one.")
        num_ar = sampling.num_ar
    _check_share(num_ar, num_tokens)
    if num_ar == num_tokens:
        _check_keeps(sampling, f"num_ar={num_ar}, all of the tokens,")
        return ar_plan(num_tokens)
    if not sampling.counts and not sampling.legacy:
        _check_steps(sampling.num_steps, num_tokens - num_ar, num_ar)
    return _steps(num_ar, _masked_counts(num_tokens - num_ar, sampling), sampling.order)


def plan_kind(objective: str, plan: str) -> str:
    """Return what `plan` means for weights of an objective: a key of PLANS.

    Raises UserError for an unknown plan, and if they have not learned it.
    """
    learned = OBJECTIVES[objective]
    if plan == "auto":
        return learned[0]
    if plan not in PLANS:
        raise UserError(f"Unknown plan {plan!r}. Known: auto, {', '.join(PLANS)}.")
    if set(PLANS[plan]) <= set(learned):
        return plan
    remedy = {
        "mar": "use plan=mar, or sample with an AR network beside them, ar_weights=RUN/weights.",
        "ar": "use plan=ar; for plan=hybrid name them as ar_weights beside weights of masks.",
    }
    raise UserError(
        f"plan={plan} asks for what these weights have not learned: they were trained with "
        f"objective={objective}; {remedy[objective]}"
    )


def _steps(num_ar: int, counts: Sequence[int], order: str) -> list[Step]:
    """`num_ar` steps in raster order, then masked ones that reveal `counts`."""
    if counts and order not in ORDERS:
        raise UserError(f"Unknown order {order!r}. Known: {', '.join(ORDERS)}.")
    num_tokens, last = num_ar + sum(counts), len(counts) - 1
    share = num_ar / num_tokens
    steps = [Step(1, index / max(1, num_tokens - 1), RASTER) for index in range(num_ar)]
    for index, count in enumerate(counts):
        progress = share + (1 - share) * (index / last if last else 1.0)
        steps.append(Step(count, progress, order))
    return steps


def _masked_counts(num_tokens: int, sampling: SamplingConfig) -> list[int]:
    """How many of `num_tokens` masked tokens each step of `sampling` reveals."""
    if sampling.counts:
        if sum(sampling.counts) != num_tokens:
            raise UserError(
                f"counts add up to {sum(sampling.counts)}; they must reveal {num_tokens} tokens."
            )
        return list(sampling.counts)
    if sampling.legacy:
        return _legacy_counts(num_tokens, sampling.num_steps, sampling.schedule)
    return _scheduled_counts(num_tokens, sampling.num_steps, sampling.schedule)


def _scheduled_counts(num_tokens: int, num_steps: int, schedule: str) -> list[int]:
    _check_steps(num_steps, num_tokens)
    if schedule not in SCHEDULES:
        raise UserError(f"Unknown schedule {schedule!r}. Known: {', '.join(SCHEDULES)}.")
    revealed = [0]  # behind each step
    for index in range(num_steps):
        hidden_share = SCHEDULES[schedule]((index + 1) / num_steps, num_tokens)
        target = round(num_tokens * (1 - hidden_share))
        revealed.append(min(max(target, revealed[-1] + 1), num_tokens - (num_steps - 1 - index)))
    return [after - before for before, after in pairwise(revealed)]


def _legacy_counts(num_tokens: int, num_steps: int, schedule: str) -> list[int]:
    """Tokens per step as the published code has them (`adap_sche`, synbol/MaskGIL 4edf674).

    There a schedule is no share left hidden but the tokens of one step: walked from its end, where
    it is 0, and scaled so that all add up. The first step, which would be empty, reveals one; the
    last one takes what rounding has left.
    """
    known = num_steps in LEGACY_STEPS and schedule in LEGACY_SCHEDULES
    if num_tokens != LEGACY_TOKENS or not known:
        raise UserError(
            f"legacy=true has tables of {LEGACY_TOKENS} masked tokens for "
            f"{', '.join(map(str, LEGACY_STEPS))} steps of {', '.join(LEGACY_SCHEDULES)}, none of "
            f"{num_tokens} tokens for {num_steps} steps of {schedule}; use legacy=false."
        )
    last = num_steps - 1
    shares = [SCHEDULES[schedule](1 - index / last, num_tokens) for index in range(num_steps)]
    counts = [max(1, round(share / sum(shares) * num_tokens)) for share in shares]
    counts[-1] += num_tokens - sum(counts)
    return counts


def _check_share(num_ar: int, num_tokens: int) -> None:
    if not 0 <= num_ar <= num_tokens:
        raise UserError(
            f"num_ar={num_ar} must lie between 0 and the number of tokens, {num_tokens}."
        )


def _check_steps(num_steps: int, num_tokens: int, num_ar: int = 0) -> None:
    if not 1 <= num_steps <= num_tokens:
        most = f"the number of tokens, {num_tokens}"
        if num_ar:
            most = f"{num_tokens}, the number of tokens that num_ar={num_ar} leaves"
        raise UserError(f"num_steps={num_steps} must lie between 1 and {most}.")


def _check_keeps(sampling: SamplingConfig, plan: str) -> None:
    if sampling.remask:
        raise UserError(
            f"remask={sampling.remask:g} hides tokens again, which {plan} cannot draw anew; "
            "use remask=0."
        )
