"""The record of a set of samples: a JSON beside it that says what it is and what it scored.

"samples" identifies the set, byte for byte on one kind of machine; the rest are facts about it.
"""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from MaskGIL.checkout import commit
from MaskGIL.config import changed_keys, leaves, to_dict
from MaskGIL.device import DTYPES
from MaskGIL.durable import replace_file, to_json
from MaskGIL.effects import OF_MASKS
from MaskGIL.inference import loaded_fingerprint
from MaskGIL.pipeline import Pipeline
from MaskGIL.plans import plan_kind
from MaskGIL.prompting import Texts
from MaskGIL.sampling import SamplingConfig
from MaskGIL.sampling_keys import SamplingKeys
from Metrics.conditions import Conditions, describe_conditions
from Metrics.published import NAMES, NOTES
from Network.config import UserError

FORMAT = 3
FIRST_SETTINGS = {"num_steps", "schedule", "order", "noise", "guidance", "guidance_scale",
                  "temperature", "top_k"}  # fmt: skip
MOST_ROWS = 20  # classes told one by one
SAME_REFERENCE = ("sha256", "count", "statistics_sha256")
Record = dict[str, Any]


def describe_samples(
    pipe: Pipeline,
    conditions: Conditions,
    null: Texts | None = None,
    *,
    seed: int,
    chunk: int,
    ema: bool,
) -> dict[str, Any]:
    """What the bytes of a set of N conditions follow from, as flat {key: value}."""
    facts = describe_set(pipe, conditions, null, seed=seed, chunk=chunk, ema=ema)
    return {**facts, **describe_sampler(pipe.sampling, pipe.objective, describe_ar_network(pipe))}


def describe_job(
    config: SamplingKeys, pipe: Pipeline, image_size: tuple[int, int]
) -> dict[str, Any]:
    """What a command asked for, as far as it is no default, and of how large a network and images.

    The registry makes rows of it. `image_size` (H, W) in pixels.
    """
    found = [(leaf.key, getattr(config, leaf.key), leaf.default) for leaf in leaves(type(config))]
    return {
        "asked": {key: value for key, value, default in found if value != default},
        "image_size": list(image_size),
        "parameters": sum(tensor.numel() for tensor in pipe.network.parameters()),
    }


def describe_set(
    pipe: Pipeline,
    conditions: Conditions,
    null: Texts | None = None,
    *,
    seed: int,
    chunk: int,
    ema: bool,
) -> dict[str, Any]:
    """`describe_samples` without the sampler."""
    return {
        "num_images": len(conditions),
        "seed": seed,
        "chunk": chunk,
        **describe_conditions(pipe, conditions, null),
        "ema": ema,
        "network_sha256": loaded_fingerprint(pipe.network),
        "tokenizer": pipe.tokenizer.name,
        "tokenizer_sha256": pipe.tokenizer.fingerprint,
        "precision": next(name for name, dtype in DTYPES.items() if dtype == pipe.dtype),
        **({"compiled": True} if pipe.compiled else {}),
    }


def describe_ar_network(pipe: Pipeline) -> dict[str, str]:
    """The hash of the network that answers raster steps, where it is one of its own."""
    own = pipe.networks.get("ar", pipe.network)
    return {} if own is pipe.network else {"ar_network_sha256": loaded_fingerprint(own)}


def describe_sampler(
    sampling: SamplingConfig, objective: str, ar_network: Mapping[str, str]
) -> dict[str, Any]:
    """The settings that a set follows from, and the `ar_network` where its plan asks for it.

    Those that records did not have at first are told where they are not as they then were: so
    records of earlier versions still describe their sets.
    """
    plan, usual = plan_kind(objective, sampling.plan), to_dict(SamplingConfig())
    unused = {"mar": {"num_ar"}, "ar": {"num_ar", *OF_MASKS}, "hybrid": set()}[plan]
    settings = {
        key: value
        for key, value in to_dict(sampling).items()
        if key not in {"plan", *unused} and (key in FIRST_SETTINGS or value != usual[key])
    }
    return settings if plan == "mar" else {"plan": plan, **settings, **ar_network}


def find_record(out: Path, samples: dict[str, Any]) -> Record | None:
    """The record of the set `out` if that is whole, None if it is still to be made.

    Raises UserError when another set is there, or one that nobody has described.
    """
    path = record_path(out)
    if not path.exists():
        if out.exists():
            raise UserError(f"out={out} exists and has no record {path}; name another file.")
        return None
    try:
        record = json.loads(path.read_text("utf-8"))
        found = dict(record["samples"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is no record of samples; name another out.") from None
    if changes := changed_keys(found, samples):
        key, old, new = changes[0]
        more = f" ({len(changes) - 1} more differ)" if len(changes) > 1 else ""
        raise UserError(
            f"out={out} is another set: {key} is {old} there and {new} here{more}; "
            "name another file."
        )
    return record if out.exists() else None


def kept_scores(record: Record, scores: Record) -> Record:
    """New scores of the same set, with those of its record that were not asked for this time.

    Scores against another reference, or of an earlier version, are not mixed: then the new ones
    stand alone. Nor are those that stand on other training images.
    """
    old, new = record.get("reference"), scores["reference"]
    if not old or record.get("format") != FORMAT:
        return scores
    if new and any(old.get(key) != new.get(key) for key in SAME_REFERENCE):
        return scores
    train, metrics = record["train"], record["metrics"]
    if scores["train"] not in (None, train):
        train = scores["train"]
        metrics = {name: value for name, value in metrics.items() if not _stands_on_train(name)}
    kept = {**scores, "reference": new or old, "train": train}
    kept["notes"] = scores["notes"] if new else record["notes"]
    kept |= {"metrics": {**metrics, **scores["metrics"]}}
    for key in ("features", "intervals", "how", "asked"):
        kept |= {key: {**record.get(key, {}), **scores[key]}}
    if scores["fid"] is None and (record["fid"] is not None or not new):
        kept |= {key: record[key] for key in (*NAMES, *NOTES)}
    return kept


def _stands_on_train(metric: str) -> bool:
    return metric in ("near training images", "classifier") or metric.endswith("ladder")


def write_record(out: Path, record: Record) -> None:
    """Write the record of the set `out`; the old one stays until the new one is whole."""
    replace_file(record_path(out), to_json({**record, "format": FORMAT}) + b"\n")


def summary(out: Path, record: Record, given: str = "") -> str:
    """The record of the set `out`, or of images that are `given`, as an aligned table, for people.

    That they are so called and so many is for the caller to say.
    """
    reference, intervals = record["reference"], record["intervals"]
    rows = {"samples": given or str(out)}
    if made := record.get("made"):
        rows["samples"] += f", {made['seconds']:.1f} s, {made['images_per_second']:.1f} img/s"
    rows["reference"] = _reference(reference) if reference else "none"
    if reference and (unreadable := len(reference["unreadable"])):
        rows["reference"] += f", of which {unreadable} cannot be read: neighbours stand in for them"
    if captions := record.get("captions"):
        rows["captions"] = _captions(captions)
    attributes = record.get("attributes", {})
    for name, value in record["metrics"].items():
        if name in attributes:
            rows[name] = _attribute(attributes[name])
        elif name.endswith("ladder"):
            for rung, distances in value["distances"].items():
                least, middle, most = sorted(distances)
                rows[f"  {rung}"] = f"{middle:.4g} ({least:.4g} to {most:.4g}), {value['count']:,}"
            rows["  in order"] = "yes" if value["in order"] else "no: judge the distance with care"
        elif name == "classifier":
            rows |= _accuracies(value)
        elif isinstance(value, dict):
            rows[name] = f"{value['share']:.2%} ({value['reference share']:.2%} of the reference)"
        elif value is None:
            rows[name] = "too few images of a class"
        else:
            rows[name] = f"{value:.4g}{reach(intervals.get(name))}"
    rows |= _published(record)
    if intervals:
        rows["±"] = "half of a 95 % interval; in brackets extrapolated to endlessly many samples"
    if record["notes"]:
        rows["note"] = "; ".join(record["notes"])
    rows["record"] = str(record_path(out))
    width = max(map(len, rows))
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows.items())


def reach(interval: Mapping[str, float] | None) -> str:
    """Half of an interval, as it stands behind its number; "" for none.

    It belongs to what the number is extrapolated to, where it is: that is the middle of it.
    """
    if not interval:
        return ""
    half = f"± {(interval['high'] - interval['low']) / 2:.2g}"
    limit = interval.get("extrapolated")
    return f" {half}" if limit is None else f" ({limit:.4g} {half})"


def _reference(reference: Record) -> str:
    """Its name and number of images, as far as that is told, and whether they are for training."""
    count = f"{reference['count']:,}" if reference["count"] else "statistics of no told number"
    return f"{reference['name']}, {count}" + ", of train" * (reference.get("split") == "train")


def _captions(captions: Record) -> str:
    """What samples were drawn from."""
    of = f" of {captions['split']}" if captions["split"] else ""
    return f"{captions['name']}, {captions['entries']:,}{of}, sha256 {captions['sha256'][:8]}"


def _attribute(told: Mapping[str, float | None]) -> str:
    """A rate with its interval, and what it is to be read beside."""
    names = ("rate", "low", "high", "chance", "shuffled", "ceiling")
    rate, low, high, chance, shuffled, ceiling = (
        "-" if (share := told[name]) is None else f"{share:.1%}" for name in names
    )
    return (
        f"{rate} ({low} to {high}) of {told['asked']:,}; chance {chance}, prompts shuffled "
        f"{shuffled}, true drawings {ceiling}"
    )


def _published(record: Record) -> dict[str, str]:
    """FID, sFID and inception score; one line where they are blank."""
    if record["fid"] is None:
        return {"FID, sFID, IS": f"none ({record['fid_note']})"}
    sfid, score, intervals = record["sfid"], record["inception_score"], record["intervals"]
    shuffled = f"{record['inception_score_shuffled']:.2f}"
    return {
        "FID": f"{record['fid']:.4f}{reach(intervals.get('FID'))}, {record['fid_note']}",
        "sFID": "none: the reference has no mu_s and sigma_s"
        if sfid is None
        else f"{sfid:.4f}{reach(intervals.get('sFID'))}",
        "inception score": f"{score:.2f}{reach(intervals.get('inception score'))}, shuffled "
        f"{shuffled}{reach(intervals.get('shuffled inception score'))}",
    }


def _accuracies(classifier: dict[str, Any]) -> dict[str, str]:
    """What a classifier said of the samples, and in brackets of the other sets."""

    def told(shares: dict[str, float | None]) -> str:
        first, *others = ("-" if share is None else f"{share:.1%}" for share in shares.values())
        return f"{first} ({', '.join(others)})"

    accuracy, per_class = classifier["accuracy"], classifier["per class"]
    _, *others = accuracy
    sets = ", ".join(f"the {name}" for name in others)
    rows = {"classifier": f"{told(accuracy)} right, of the samples ({sets})"}
    if len(per_class) <= MOST_ROWS:
        rows |= {f"  {name}": told(shares) for name, shares in per_class.items()}
    return rows


def record_path(out: Path) -> Path:
    """Where the record of the set `out` lies."""
    return out.with_suffix(".json")


def versions() -> dict[str, str]:
    """Of everything that computes; no variables of the environment."""
    try:
        own = version("maskgil")
    except PackageNotFoundError:
        own = "not installed"
    return {
        "maskgil": own,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
