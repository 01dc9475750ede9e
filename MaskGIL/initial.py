"""What a generator begins with: fresh weights, or those of another run or project (`init_from`).

Stands on `read_network`, which knows every layout. A table of other classes is made anew, since
other data have other classes; anything else that does not fit is a mistake unless it is listed.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor

from MaskGIL.weights import read_network
from Network import build_network
from Network.config import NetworkConfig, UserError
from Network.files import check_finite, differences, some, unwrapped
from Network.gpt import GPT

CLASSES = "condition.table.weight"


def begin_network(
    config: NetworkConfig, source: str, skip: Sequence[str] = ()
) -> tuple[GPT, list[str]]:
    """A network of `config` with the weights of `source`, and the names of tensors left fresh.

    `source` is whatever `load_network` takes; of ours the averaged weights. Tensors whose name
    begins as one of `skip` (in which * stands for anything) are left fresh, as is the table of
    classes if it has another size. Raises UserError for every other difference, five at most told.
    """
    read, file = read_network(source, config)
    network = build_network(config)
    given = {unwrapped(name): tensor for name, tensor in read.state.items()}
    wanted = network.state_dict()
    skipped = {name for name in {**given, **wanted} if any(_begins(name, each) for each in skip)}
    if other := _other_classes(given, wanted):
        skipped.add(other)
    taken = {name: tensor for name, tensor in given.items() if name not in skipped}
    needed = {name: tensor for name, tensor in wanted.items() if name not in skipped}
    if wrong := differences(taken, needed):
        raise UserError(
            f"init_from={source} does not fit this network: {some(wrong)}; give it the network "
            "section of these weights, or list in init_skip what may begin anew."
        )
    check_finite(taken, file)
    if not next(network.parameters()).is_meta:  # a rank to which another one hands the weights
        network.load_state_dict(taken, strict=False)
    return network, [name for name in wanted if name in skipped]


def describe_beginning(source: str, fresh: Sequence[str]) -> str:
    """`source` and what is not from there, for the log."""
    return f"{source}, but for {some(fresh, ', ')}" if fresh else source


def _begins(name: str, start: str) -> bool:
    return fnmatchcase(name, f"{start}*")


def _other_classes(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """The name of the table of classes if it differs in their number alone, else nothing."""
    if CLASSES not in given or CLASSES not in wanted:
        return ""
    theirs, ours = given[CLASSES].shape, wanted[CLASSES].shape
    return CLASSES if theirs[0] != ours[0] and theirs[1:] == ours[1:] else ""
