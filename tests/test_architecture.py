"""Keeps the house as CONTRIBUTING.md describes it. Every check is shown to fail on a bad source."""

import ast
import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ["Network", "MaskGIL", "Metrics", "Trainer"]  # left to right
PROGRAMS = ["main", "FID_sample"]  # above all floors: nothing imports them
PATTERNS = [
    *(f"{floor}/**/*.py" for floor in FLOORS),
    *(f"{program}.py" for program in PROGRAMS),
    *(
        "results/*.json",
        "benchmarks/*.py",
        "benchmarks/results/*.json",
        "MaskGIL/configs/**/*.yaml",
    ),
    *("results/*.json", "*.md", "*.toml", "*.yaml", "*.txt", "Makefile", ".ci/run"),
]
FILE_LINES, FUNCTION_LINES = 350, 60
VAGUE_NAMES = {"util", "utils", "misc", "helper", "helpers", "common"}
MACHINE_PATH = r"(?<![\w.~])(/(home|root|Users|work|mnt|nfs|scratch|tmp|opt|workspace)/|[A-Z]:\\)\w"

# As `ast.unparse` writes it, with empty text constants: what stands in a docstring harms nobody.
FORBIDDEN = {
    r"\.cuda\(": "moves to a device on its own: the caller says which, with .to(device)",
    r"\bsys\.path\b": "bends sys.path: install the package instead",
    r"\bos\.environ(\[[^]]*\] =(?!=)|\.(setdefault|update|pop)\()": "writes the environment",
    r"\bweights_only=False\b": "may run code from a file: weights_only=True",
    r"\bpickle\b.*\b(load|loads|Unpickler)\b": "may run code from a file: no pickle",
    r"\byaml\.(full_|unsafe_)?load(_all)?\(": "may run code from a file: use MaskGIL.yaml_reader",
    r"\ballow_pickle=True\b": "may run code from a file: allow_pickle=False",
    r"\bshell=True\b": "runs a shell: pass a list of arguments",
}
ALLOWED = {("MaskGIL/distributed.py", "writes the environment")}

# A file is tested by tests/test_<its name>.py, or by test_<the name given here>.py.
TESTED_BY = {
    "Metrics/scored_set.py": "fid_sample",
    "Metrics/train_features.py": "features",
    "Network/Taming/autoencoder.py": "taming",
    "Network/Taming/blocks.py": "taming",
    "Network/Taming/quantiser.py": "taming",
    "Network/context.py": "gpt",
    "Network/tokenizer/vq.py": "tokenizer",
}


class Source(NamedTuple):
    path: str  # from the root, with slashes
    text: str
    tree: ast.Module  # empty where the file is not Python

    @property
    def floor(self) -> str:
        return self.path.split("/")[0]

    @property
    def is_python(self) -> bool:
        return self.path.endswith(".py")


def read_sources(root):
    found = sorted({path for pattern in PATTERNS for path in root.glob(pattern)})
    texts = [(path.relative_to(root).as_posix(), path.read_text("utf-8")) for path in found]
    return [
        Source(path, text, ast.parse(text if path.endswith(".py") else "")) for path, text in texts
    ]


# Checks: a source in, complaints out


def imports_only_leftwards(source: Source) -> Iterator[str]:
    own = FLOORS.index(source.floor) if source.floor in FLOORS else len(FLOORS)
    for line, name in _imports(source.tree):
        if name in PROGRAMS:
            yield f"{source.path}:{line} imports the program {name}.py"
        if name in FLOORS and FLOORS.index(name) > own:
            yield f"{source.path}:{line} is on floor {source.floor} and imports {name} above it"


def has_a_telling_name(source: Source) -> Iterator[str]:
    for name in source.path.removesuffix(".py").split("/"):
        if name.strip("_").lower() in VAGUE_NAMES:
            yield f"{source.path}: {name} says nothing about what is in it"


def does_nothing_forbidden(source: Source) -> Iterator[str]:
    for node in _without_text(source.tree).body:
        code = ast.unparse(node)
        for pattern, complaint in FORBIDDEN.items():
            if re.search(pattern, code) and (source.path, complaint) not in ALLOWED:
                yield f"{source.path}:{node.lineno} {complaint}"


def names_no_machine(source: Source) -> Iterator[str]:
    for number, line in enumerate(source.text.splitlines(), 1):
        if found := re.search(MACHINE_PATH, line):
            yield f"{source.path}:{number} names a path of one machine: {found[0]}..."


def is_short(source: Source) -> Iterator[str]:
    lines = len(source.text.splitlines())
    if source.is_python and lines > FILE_LINES:
        yield f"{source.path} has {lines} lines, more than {FILE_LINES}"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield f"{source.path}:{node.lineno} {node.name} has {lines} lines"


def is_documented(source: Source) -> Iterator[str]:
    if source.floor not in FLOORS:
        return
    if source.tree.body and not ast.get_docstring(source.tree):
        yield f"{source.path} has no docstring"
    for node in source.tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            public = not node.name.startswith("_")
            if public and not ast.get_docstring(node):
                yield f"{source.path}:{node.lineno} {node.name} has no docstring"


def missing_tests(sources: list[Source], root: Path) -> Iterator[str]:
    for source in sources:
        name = source.path.split("/")[-1].removesuffix(".py")
        if not source.is_python or source.floor == "benchmarks" or name == "__init__":
            continue
        test = f"tests/test_{TESTED_BY.get(source.path, name.strip('_').lower())}.py"
        if not (root / test).exists():
            yield f"{source.path} has no {test}"


CHECKS = [
    imports_only_leftwards,
    has_a_telling_name,
    does_nothing_forbidden,
    names_no_machine,
    is_short,
    is_documented,
]


# Tests of the house


@pytest.fixture(scope="module")
def house():
    sources = read_sources(ROOT)
    assert {source.floor for source in sources} >= set(FLOORS)
    return sources


@pytest.mark.parametrize("check", CHECKS)
def test_the_house(house, check):
    complaints = [complaint for source in house for complaint in check(source)]
    assert not complaints, "\n".join(complaints)


def test_every_file_has_its_test(house):
    complaints = list(missing_tests(house, ROOT))
    assert not complaints, "\n".join(complaints)


def test_exceptions_name_files_that_exist(house):
    assert {*TESTED_BY, *(path for path, _ in ALLOWED)} <= {source.path for source in house}


# Tests of the checks

BAD_SOURCES = [
    (
        imports_only_leftwards,
        "Network/a.py",
        "from MaskGIL.noise import uniform",
        "imports MaskGIL",
    ),
    (imports_only_leftwards, "Metrics/a.py", "def f():\n    import Trainer.vit", "imports Trainer"),
    (
        imports_only_leftwards,
        "MaskGIL/a.py",
        "from main import main",
        "imports the program main.py",
    ),
    (imports_only_leftwards, "main.py", "import FID_sample as f", "the program FID_sample.py"),
    (has_a_telling_name, "Network/utils.py", "", "utils says nothing"),
    (has_a_telling_name, "Trainer/common/loop.py", "", "common says nothing"),
    (has_a_telling_name, "MaskGIL/_helpers.py", "", "_helpers says nothing"),
    (does_nothing_forbidden, "Network/a.py", "def f(x):\n    return x.cuda(0)", ".to(device)"),
    (does_nothing_forbidden, "main.py", "import sys\nsys.path.insert(0, '..')", "bends sys.path"),
    (does_nothing_forbidden, "main.py", "import os\nos.environ['A'] = '1'", "the environment"),
    (does_nothing_forbidden, "main.py", "os.environ.setdefault('A', '1')", "the environment"),
    (does_nothing_forbidden, "Network/a.py", "torch.load(f, weights_only = False)", "weights_only"),
    (does_nothing_forbidden, "Network/a.py", "import pickle\npickle.load(f)", "no pickle"),
    (does_nothing_forbidden, "Network/a.py", "from pickle import loads", "no pickle"),
    (does_nothing_forbidden, "MaskGIL/a.py", "yaml.load(f, Loader=L)", "yaml_reader"),
    (does_nothing_forbidden, "MaskGIL/a.py", "x = [yaml.unsafe_load(f)]", "yaml_reader"),
    (does_nothing_forbidden, "Metrics/a.py", "np.load(f, allow_pickle=True)", "allow_pickle=False"),
    (does_nothing_forbidden, "benchmarks/a.py", "run('ls', shell=True)", "runs a shell"),
    (names_no_machine, "Trainer/a.py", "PATH = '/home/ann/data'", "one machine: /home/a"),
    (names_no_machine, "MaskGIL/configs/b.yaml", "path: /mnt/data", "one machine: /mnt/d"),
    (names_no_machine, "README.md", r"see C:\data", "one machine: C:"),
    (is_short, "Network/a.py", "x = 1\n" * 351, "has 351 lines, more than 350"),
    (is_short, "Network/a.py", "class A:\n    def f():\n" + "        x\n" * 60, "f has 61 lines"),
    (is_documented, "Network/a.py", "x = 1", "a.py has no docstring"),
    (is_documented, "Network/a.py", '"""A."""\ndef f():\n    pass', "f has no docstring"),
    (is_documented, "Trainer/a.py", '"""A."""\nclass F:\n    pass', "F has no docstring"),
]


@pytest.mark.parametrize(("check", "path", "text", "complaint"), BAD_SOURCES)
def test_a_check_can_fail(tmp_path, check, path, text, complaint):
    (bad,) = read_sources(_written(tmp_path, path, text))
    (found,) = check(bad)
    assert found.startswith(path)
    assert complaint in found


GOOD_SOURCES = [
    ("Trainer/a.py", "from Network.gpt import GPT\nfrom Trainer.b import c\nimport torch"),
    ("main.py", "from Trainer.vit import fit\nfrom MaskGIL import load_config"),
    ("MaskGIL/distributed.py", "import os\nos.environ['MASTER_PORT'] = '0'"),
    ("main.py", "rank = os.environ['RANK'] == '0'\nfree = torch.cuda.is_available()"),
    ("main.py", "'''Neither sys.path nor torch.load(f, weights_only=False) nor x.cuda().'''"),
    (
        "README.md",
        "python main.py data.path=/data/imagenet  # see https://a.org/home/x and ~/tmp/x",
    ),
    ("Network/a.py", '"""A."""\ndef _private():\n    pass' + "\n" * 340),
]


@pytest.mark.parametrize(("path", "text"), GOOD_SOURCES)
def test_no_check_complains_about_good_sources(tmp_path, path, text):
    (good,) = read_sources(_written(tmp_path, path, text))
    checks = [check for check in CHECKS if check is not is_documented or '"""' in text]
    assert [complaint for check in checks for complaint in check(good)] == []


def test_a_missing_test_is_found(tmp_path):
    for path in ("Network/gpt.py", "Network/__init__.py", "Network/Taming/blocks.py", "main.py"):
        _written(tmp_path, path, "")
    for test in ("test_gpt.py", "test_blocks.py"):
        _written(tmp_path, f"tests/{test}", "")
    assert list(missing_tests(read_sources(tmp_path), tmp_path)) == [
        "Network/Taming/blocks.py has no tests/test_taming.py",
        "main.py has no tests/test_main.py",
    ]


def _written(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)
    return root


def _imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, (node.module or "").split(".")[0]


def _without_text(tree):
    tree = copy.deepcopy(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return tree
