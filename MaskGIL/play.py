"""`python -m MaskGIL play`: a page on which a generator draws, step by step, before one's eyes.

The page is served by this process alone, on this machine unless told otherwise.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from socket import gethostname
from typing import Any

from MaskGIL.classes import class_names
from MaskGIL.command import Flags
from MaskGIL.config import require_within
from MaskGIL.generate import sampler_lines
from MaskGIL.page.painting import Painter
from MaskGIL.page.server import LOOPBACK, PageServer, Tell
from MaskGIL.page.wish import WORDS, Wishes
from MaskGIL.pipeline import Pipeline
from MaskGIL.public import GENERATORS, bytes_of
from MaskGIL.sampling import SamplingConfig
from MaskGIL.sampling_keys import SamplingKeys, check_keys, load_pipeline
from MaskGIL.weights import NETWORK, NETWORK_EMA, TOKENIZER
from Network.config import UserError, setting

EVERYWHERE = ("0.0.0.0", "::")
DEMO = "runs/demo/generator/weights"
SHORTEST_PASSWORD = 8
MB = 1e6


@dataclass(frozen=True)
class PlayConfig(SamplingKeys):
    """A page to play with. Settings of the sampler are where its controls begin."""

    host: str = setting(
        LOOPBACK[0], "address to answer at; another one than this machine's own needs a password"
    )
    port: int = setting(7860, "port to answer at; 0: one that is free")
    password: str = setting(
        "",
        "what the browser asks for, with any user name; it and all else goes unencrypted. Others "
        "on this machine see what is typed, so keep it in a file: play FILE.yaml",
    )

    def __post_init__(self):
        super().__post_init__()
        require_within("port", self.port, 0, 65535)
        if self.host not in LOOPBACK and not self.password:
            raise UserError(
                f"host={self.host} lets other machines in; give them a password, password=WORDS, "
                "or leave host out."
            )
        if self.password and len(self.password) < SHORTEST_PASSWORD:
            raise UserError(
                f"password has fewer than {SHORTEST_PASSWORD} letters; give a longer one."
            )


def play(config: PlayConfig, flags: Flags) -> None:
    """Load the weights, and answer visitors until Ctrl-C."""
    config = _with_weights(config)
    print(f"weights    {config.weights}{_memory(config)}", flush=True)
    pipe, wishes = open_page(config)
    print(sampler_lines(_begun(pipe, wishes)))
    if flags.dry_run:
        return
    with page_server(config, pipe, wishes) as server:
        name = gethostname() if config.host in EVERYWHERE else config.host
        host = f"[{name}]" if ":" in name else name
        print(f"page       http://{host}:{server.server_port}  (Ctrl-C ends it)", flush=True)
        server.serve_forever()


def open_page(config: PlayConfig) -> tuple[Pipeline, Wishes]:
    """The pipeline with the sampler of its weights, and what reads wishes for it.

    Raises UserError as `open_pipeline` does.
    """
    settings = {field.name: None for field in fields(SamplingConfig)}
    pipe = load_pipeline(replace(config, **settings))
    wishes = Wishes(pipe, config)
    pipe.plan(wishes.first)  # it checks
    check_keys(replace(config, ar_weights=""), pipe, [wishes.first])
    if pipe.network.config.caption_width:
        pipe.encode_prompts(["a picture"])  # an encoder that cannot be had is told now
    return pipe, wishes


def page_server(config: PlayConfig, pipe: Pipeline, wishes: Wishes) -> PageServer:
    """The server of a page that is open; it answers from `serve_forever` on.

    Raises UserError for an address that cannot be had.
    """
    painter, place = Painter(pipe), (config.host, config.port)

    def draw(asked: object, tell: Tell) -> None:
        painter.paint(wishes.read(asked), tell)

    try:
        return PageServer(place, about(config, pipe, wishes), draw, config.password)
    except OSError as error:
        raise UserError(
            f"host={config.host} port={config.port} cannot be had ({error.strerror}); name another "
            "port, or port=0 for a free one."
        ) from None


def about(config: PlayConfig, pipe: Pipeline, wishes: Wishes) -> dict[str, Any]:
    """What the page is told of the weights."""
    network = pipe.network.config
    height, width = pipe.image_size
    return {
        "told": f"{_count(pipe)} parameters, {network.grid[0]}x{network.grid[1]} tokens of "
        f"{network.codebook_size} codes, {width}x{height} pixels, on {pipe.device}",
        "classes": class_names(pipe.classes, network.num_classes),
        "prompts": bool(network.caption_width),
        "guided": network.is_conditional,
        "height": height,
        "width": width,
        "stride": pipe.tokenizer.stride,
        "plans": wishes.plans,
        "words": WORDS,
        "bounds": wishes.bounds(),
        "first": {**wishes.first_settings(), "seed": config.seed},
    }


def _begun(pipe: Pipeline, wishes: Wishes) -> Pipeline:
    """The pipeline as the page begins with it, to speak of."""
    begun = Pipeline(pipe.network, pipe.tokenizer, sampling=wishes.first, dtype=pipe.dtype)
    begun.objective, begun.networks = pipe.objective, pipe.networks
    return begun


def _with_weights(config: PlayConfig) -> PlayConfig:
    """Those that are named, else the demo's. Raises UserError where there are none either."""
    if config.weights:
        return config
    if Path(DEMO, "config.json").is_file():
        print("note       weights is empty: here is the demo's generator.")
        return replace(config, weights=DEMO)
    raise UserError(
        "weights is empty, and the demo's are not there yet: make demo trains them in eight "
        "minutes, without a GPU. Or name others, weights=RUN/weights or a public name that is "
        f"fetched, such as weights={next(iter(GENERATORS))}."
    )


def _memory(config: PlayConfig) -> str:
    """What the weights take: twice while they are read. Of public ones about, by their size."""
    sizes, about = [], ""
    for folder in filter(None, (config.weights, config.ar_weights)):
        names = (NETWORK_EMA if config.ema else NETWORK, NETWORK)
        if folder in GENERATORS and not Path(folder).exists():
            sizes.append(bytes_of(folder))
            about = "about "
            continue
        network = next((name for name in names if Path(folder, name).is_file()), NETWORK)
        files = (Path(folder, name) for name in (network, TOKENIZER))
        sizes += [file.stat().st_size for file in files if file.is_file()]
    total = sum(sizes) / MB
    if not sizes:
        return ""
    return f", {about}{total:,.0f} MB; loading takes {2 * total:,.0f} MB beside PyTorch's own 1 GB"


def _count(pipe: Pipeline) -> str:
    networks = {pipe.network, *pipe.networks.values()}
    count = sum(parameter.numel() for each in networks for parameter in each.parameters())
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count:,}"
