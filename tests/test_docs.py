"""The documents say what is so: code and commands run, paths, options and settings exist, the map names every module."""

import os
import re
import shlex
import signal
import subprocess
import sys
from argparse import ArgumentParser
from itertools import pairwise
from pathlib import Path

import pytest

from truecopy_services.cli import VERBS
from truecopy_services.cli.screen import Exit
from truecopy_services.config import Settings
from truecopy_services.sources import CONFIG_VARIABLE, SECRETS_VARIABLE

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    (*ROOT.glob("*.md"), *ROOT.glob("[!.]*/README.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md"))
)
SOURCES = (CONFIG_VARIABLE, SECRETS_VARIABLE)
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
RUN_S = 60
COMMANDS = re.compile(r"^ {4}(truecopy .*)$", re.MULTILINE)
OPTION = re.compile(r"(?<![-\w])--[a-z][a-z-]*")
FOREIGN = re.compile(r"^ {4}kafka-\S+\.sh(?:.*\\\n)*.*$", re.MULTILINE)
"""Commands of Kafka's own tools: their options are not ours."""
NO_SETTINGS = {"TRUECOPY_APP", "TRUECOPY_DEBUG", *SOURCES, "TRUECOPY_TEST_KAFKA", "TRUECOPY_TEST_POSTGRES"}
"""Variables of the command line and of tests; all others that a document names are settings."""


def blocks(path: Path) -> list[tuple[str, str]]:
    """(language, text) of the fenced blocks, without their indentation."""
    found = BLOCK.findall(path.read_text())
    return [(language, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)) for indent, language, text in found]


def programs() -> list[tuple[Path, str, str]]:
    """(document, program, expected output) of the blocks of Python that are whole programs."""
    found = []
    for path in DOCUMENTS:
        here = blocks(path)
        for (language, text), (following, output) in pairwise([*here, ("", "")]):
            if language == "python" and re.search(r"^(from|import) ", text, re.MULTILINE):
                found.append((path, text, output if following == "output" else ""))
    return found


@pytest.mark.parametrize(
    ("path", "program", "output"), [pytest.param(*p, id=f"{p[0].parent.name}/{p[0].name}") for p in programs()]
)
def test_the_programs_of_the_documents_run(path: Path, program: str, output: str, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=RUN_S, check=False
    )

    assert ran.returncode == 0, ran.stderr
    assert output in (ran.stdout, ""), path
    assert not (output and ran.stderr)


def test_the_readme_has_its_programs() -> None:
    assert {path.parent.name for path, _, _ in programs()} >= {ROOT.name, "schemas", "bus", "projections"}


def test_the_example_of_the_readme_is_short() -> None:
    example = next(text for path, text, _ in programs() if path == ROOT / "README.md")

    body = example[example.index("bank = ") :].splitlines()
    assert len([line for line in body if line.strip() and not line.startswith(("@", "asyncio.run"))]) <= 12


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_paths_in_the_documents_exist(path: Path) -> None:
    text = path.read_text()
    named = re.findall(r"\]\(([^)#:]+)\)", text)
    named += re.findall(r"`((?:tests|bus|schemas|projections|services)/[\w./]+)`", text)

    assert not [name for name in named if not (path.parent / name).exists() and not (ROOT / name).exists()]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_commands_in_the_documents_are_verbs(path: Path) -> None:
    verbs = {verb.name for verb in VERBS}

    used = set(re.findall(r"(?:^ {4}|`)truecopy ([a-z]+)", path.read_text(), re.MULTILINE))
    assert used <= verbs
    if path == ROOT / "README.md":
        assert used == verbs


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_options_settings_and_targets_in_the_documents_exist(path: Path) -> None:
    text = path.read_text()
    parser = ArgumentParser()
    subparsers = parser.add_subparsers()
    for verb in VERBS:
        verb.arguments(subparsers.add_parser(verb.name))
    options = {option for one in subparsers.choices.values() for option in OPTION.findall(one.format_help())} | {"--json"}
    settings = {f"TRUECOPY_{name.upper()}" for name in Settings.model_fields} | NO_SETTINGS
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert set(OPTION.findall(FOREIGN.sub("", text))) <= options
    assert set(re.findall(r"TRUECOPY_[A-Z]\w*", text)) <= settings
    assert set(re.findall(r"(?:^ {4}|`)make ([\w-]+)", text, re.MULTILINE)) <= targets


def test_the_readme_tells_every_exit_code() -> None:
    told = re.search(r"Exit codes: (.+?)\.", (ROOT / "README.md").read_text(), re.DOTALL)

    assert told
    assert {int(code) for code in re.findall(r"\d", told[1])} == set(Exit)


def test_the_commands_of_the_readme_run_one_after_the_other(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    example = next(program for path, program, _ in programs() if path == ROOT / "README.md")
    (tmp_path / "bank.py").write_text(example.replace(', log="memory:"', "").replace("asyncio.run(main())\n", ""))
    commands = [shlex.split(line)[1:] for line in COMMANDS.findall(text)]
    (started,) = [words[:-1] for words in commands if words[-1] == "&"]
    python = [sys.executable, "-m", "truecopy_services"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRUECOPY_")}
    running = subprocess.Popen([*python, *started], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    try:
        for words in commands:
            if words[-1] != "&":
                ran = subprocess.run(
                    [*python, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=RUN_S, check=False
                )
                assert ran.returncode == Exit.GOOD, (words, ran.stderr)
        running.send_signal(signal.SIGTERM)
        assert running.wait(RUN_S) == Exit.GOOD
    finally:
        running.kill()
        running.wait()


@pytest.mark.parametrize("layer", ["schemas", "bus", "projections", "services"])
def test_the_file_map_names_every_module(layer: str) -> None:
    (row,) = re.findall(rf"^\| `{layer}/truecopy_{layer}`.*$", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    mapped = set(re.findall(r"`(\w+(?:\.py|/))`", row))

    package = ROOT / layer / f"truecopy_{layer}"
    there = {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    there |= {f"{path.name}/" for path in package.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert mapped == there
