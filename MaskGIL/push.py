"""`python -m MaskGIL push WEIGHTS OWNER/NAME`: weights and their card to the Hugging Face hub.

One commit. Weights that are there already are replaced only if that is asked for; anything else in
the repository stays.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MaskGIL.command import Failure, Flags
from MaskGIL.model_card import CARD, model_card
from MaskGIL.text_source import public_name
from MaskGIL.weights import NETWORK, NETWORK_EMA, TOKENIZER, load_weights, read_config
from Network.config import UserError, setting
from Network.files import fingerprint

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FORBIDDEN = "your token may not write there; make one that may"
REFUSALS = {401: FORBIDDEN, 403: FORBIDDEN, 412: "it has changed in the meantime; push again"}
TOLD = {"network_sha256", "num_images", "seed", "ema"}  # of samples, in a card


@dataclass(frozen=True)
class PushConfig:
    """Which folder, and where to."""

    weights: str = setting("", "weights folder: RUN/weights")
    repository: str = setting("", "OWNER/NAME on the hub, made if it is not there")
    private: bool = setting(True, "of a repository that is made: only its owner sees it")
    licence: str = setting(
        "", "the hub's short name of the licence, such as mit, for the card; empty: none is told"
    )
    overwrite: bool = setting(False, "replace weights and a card that are there already")
    code: str = setting(
        "", "address of the code that reads them, for the card; empty: none is told"
    )
    scores: str = setting(
        "", "record of FID_sample.py about these weights, for the card; empty: it tells no scores"
    )
    card: str = setting("", "Markdown file to take for the card; empty: one is made")

    def __post_init__(self):
        for key in ("licence", "code", "scores"):
            if getattr(self, key) and self.card:
                raise UserError(f"{key} has no effect beside card; write it there.")


def push(config: PushConfig, flags: Flags) -> None:
    """Upload the weights and their card, and say where they are.

    Raises UserError for what is no weights folder or no repository, Failure where the hub refuses.
    """
    from huggingface_hub import constants, get_token

    files, scores = _checked(config)
    parts: dict[str, Path | bytes] = {file.name: file for file in files}
    card = _card(config, scores)
    parts |= {"config.json": _public_config(Path(config.weights)), CARD: card}
    for name, part in parts.items():
        size = part.stat().st_size if isinstance(part, Path) else len(part)
        print(f"file       {name}, {size / 1e6:,.1f} MB" if size >= 1e5 else f"file       {name}")
    if not config.licence and not config.card:
        print("note       licence is empty: nobody may use what has none; licence=mit, or yours")
    if flags.dry_run:
        print(f"\n{card.decode()}", end="")
        return
    if constants.HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE is set; unset it to push.")
    if get_token() is None:
        raise UserError("The hub does not know you: hf auth login, or HF_TOKEN=..., comes first.")
    print(f"wrote      {_upload(config, parts)}")


def _upload(config: PushConfig, parts: dict[str, Path | bytes]) -> str:
    """Make the repository if there is none, and one commit of all; the address of that."""
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    hub = HfApi(library_name="maskgil")
    added = [CommitOperationAdd(name, part) for name, part in parts.items()]
    try:
        before = _check_place(hub, config, set(parts))
        hub.create_repo(config.repository, private=config.private, exist_ok=True)
        commit = hub.create_commit(
            config.repository,
            added,
            commit_message="Weights and their card",
            parent_commit=before,  # whoever has been quicker loses nothing
        )
    except HfHubHTTPError as error:
        status = error.response.status_code
        told = REFUSALS.get(status) or error.server_message or "it says no more"
        raise Failure(f"The hub refuses {config.repository} ({status}): {told}.") from None
    except UserError:
        raise
    except json.JSONDecodeError:
        raise Failure("What answers is not the hub; look at HF_ENDPOINT and the proxy.") from None
    except ValueError as error:  # of what its check of the card has found
        reason = " ".join(str(error).split())
        names = f"licence={config.licence} must be one of its short names, such as mit, apache-2.0"
        remedy = f"mend card={config.card}." if config.card else f"{names} or other."
        raise UserError(f"The hub does not take the card: {reason} {remedy}") from None
    except Exception as error:
        if not _is_of_the_line(error):
            raise
        raise Failure(f"The hub cannot be reached ({error}); try again.") from None
    return commit.commit_url


def _check_place(hub: "HfApi", config: PushConfig, names: set[str]) -> str | None:
    """The newest commit of the repository, None for one that is not there.

    Raises UserError for a repository that others see unasked, or that would lose something.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = hub.model_info(config.repository)
    except RepositoryNotFoundError:
        return None
    if config.private and found.private is False:
        raise UserError(
            f"{config.repository} is there already, and public; private=false says that all may "
            "see these weights."
        )
    there = sorted(names & {file.rfilename for file in found.siblings or ()})
    if there and not config.overwrite:
        raise UserError(
            f"{config.repository} holds {', '.join(there)} already; overwrite=true replaces them."
        )
    return found.sha


def _is_of_the_line(error: Exception) -> bool:
    """Whether nothing was answered: an error of httpx or httpx2, which versions of the hub use."""
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


def _checked(config: PushConfig) -> tuple[list[Path], Mapping[str, Any] | None]:
    """The files of the weights, and their scores if there are to be any.

    Raises UserError for weights that do not load, a name that is none, and scores of others.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not config.weights or not config.repository:
        raise UserError(
            "weights or repository is empty: python -m MaskGIL push WEIGHTS OWNER/NAME."
        )
    try:
        validate_repo_id(config.repository)
    except HFValidationError:
        raise UserError(f"repository={config.repository} is no OWNER/NAME.") from None
    if config.repository.count("/") != 1:
        raise UserError(f"repository={config.repository} is no OWNER/NAME.")
    folder = Path(config.weights)
    loaded: set[str] = set()
    for ema in (True, False) if "network" in read_config(folder) else (True,):
        network = load_weights(folder, ema=ema).network  # what is damaged is told before any goes
        if config.scores and network:
            loaded.add(fingerprint(network.state_dict()))
    names = ("config.json", NETWORK, NETWORK_EMA, TOKENIZER)
    files = [folder / name for name in names if (folder / name).is_file()]
    return files, _scores(config, loaded)


def _scores(config: PushConfig, loaded: set[str]) -> Mapping[str, Any] | None:
    """The record for the card, None for none. `loaded` are fingerprints of the weights."""
    if not config.scores:
        return None
    if not Path(config.scores).is_file():
        raise UserError(f"No such file: scores={config.scores}.")
    try:
        record = json.loads(Path(config.scores).read_bytes())
        measured, metrics = record["samples"], record["metrics"]
        if not (measured.keys() >= TOLD and metrics.keys()):
            raise LookupError
    except (ValueError, LookupError, TypeError, AttributeError):
        raise UserError(
            f"scores={config.scores} is no record of samples, which FID_sample.py writes."
        ) from None
    if measured["network_sha256"] not in loaded or "ar_network_sha256" in measured:
        raise UserError(
            f"scores={config.scores} is about other weights than {config.weights}; score these "
            f"with FID_sample.py weights={config.weights}."
        )
    return record


def _card(config: PushConfig, scores: Mapping[str, Any] | None) -> bytes:
    if not config.card:
        words = (config.repository, config.licence, config.code, scores)
        return model_card(Path(config.weights), *words).encode()
    if not Path(config.card).is_file():
        raise UserError(f"No such file: card={config.card}; leave it out, and a card is made.")
    return Path(config.card).read_bytes()


def _public_config(folder: Path) -> bytes:
    """The `config.json` of a folder, without the place of a text encoder on this machine."""
    data = (folder / "config.json").read_bytes()
    config = json.loads(data)
    text = config.get("text") or {}
    if not text or public_name(text["encoder"]) == text["encoder"]:
        return data
    config["text"]["encoder"] = public_name(text["encoder"])
    return json.dumps(config, indent=1, ensure_ascii=False).encode()
