"""The demo of a git repository: one with all that git allows, the project's own, and none; killed, and run again."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from truecopy_bus.points import HELD_LINE, HOLD_VARIABLE, Point
from truecopy_services.cli import main
from truecopy_services.demo.git.declared import key_of
from truecopy_services.demo.git.order import in_line
from truecopy_services.demo.git.repository import Repository, spelled

OWN = Path(__file__).parents[2]
COMMITS_OF_OURS = 30
HELD_WITHIN_S = 60
LONG = "/".join(["a folder with a long name of sixty characters, which are these"] * 20) + "/file"


class Git:
    """A repository that is made by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self("init", "--quiet", "--initial-branch=main")

    def __call__(self, *words: str | bytes) -> str:
        named = ("user.name=Tests", "user.email=tests@example.org", "commit.gpgsign=false")
        settings = [word for name in named for word in ("-c", name)]
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        done = subprocess.run(
            ["git", *settings, *words], cwd=self.folder, capture_output=True, check=True, text=True, env=environment
        )
        return done.stdout.strip()

    def write(self, path: str | bytes, text: str) -> None:
        place = os.fsencode(self.folder) + b"/" + (path if isinstance(path, bytes) else path.encode())
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "w") as file:
            file.write(text)

    def commit(self, *more: str) -> str:
        self("add", "--all")
        self("commit", "--quiet", "--allow-empty", "-m", "a step", *more)
        return self("rev-parse", "HEAD")


@pytest.fixture
def odd(tmp_path: Path) -> Git:
    """All that a tree may hold and a history may do."""
    git = Git(tmp_path / "odd")
    git.write("plain", "1\n" * 50)
    git.write("to be a folder", "1\n")
    git.write("Case", "case\n" * 50)
    git.write(b"not utf-8 \xff\xfe", "1\n")
    git.write('"quoted" \\ and\ttab\nnewline', "1\n")
    git.write("für alle", "1\n")
    git.write(LONG, "1\n")
    git.commit()
    git("commit", "--quiet", "--allow-empty", "-m", "nothing")
    git("mv", "plain", "moved")
    (git.folder / "link").symlink_to("moved")
    git.commit()
    (git.folder / "to be a folder").unlink()
    git.write("to be a folder/inside", "1\n")
    (git.folder / "moved").chmod(0o755)
    git("mv", "Case", "case")
    git.commit()
    (git.folder / "link").unlink()
    git.write("link", "no link any more\n")
    git("update-index", "--add", "--cacheinfo", f"160000,{git('rev-parse', 'HEAD')},sub")
    git("add", "link")
    git("commit", "--quiet", "-m", "a module")
    git("branch", "one")
    git("branch", "two")
    for branch in ("one", "two", "main"):
        git("checkout", "--quiet", branch)
        git.write(f"of {branch}", "1\n")
        git("add", f"of {branch}")
        git("commit", "--quiet", "-m", branch)
    git("merge", "--quiet", "--no-edit", "one", "two")
    git("checkout", "--quiet", "--orphan", "other_root")
    git("rm", "-r", "--quiet", "--force", ".")
    git.write("moved", "another beginning\n")
    git("add", "moved")
    git("commit", "--quiet", "-m", "another_root")
    git("checkout", "--quiet", "main")
    git("merge", "--quiet", "--no-edit", "--allow-unrelated-histories", "-s", "ours", "other_root")
    git("rm", "--quiet", "--cached", "sub")
    git("rm", "--quiet", "moved")
    git("commit", "--quiet", "-m", "gone")
    git.write("moved", "back again\n")
    git("add", "moved")
    git("commit", "--quiet", "-m", "back")
    return git


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = main(["demo", "git", *words, "--json"])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_each_commit_of_an_odd_history_is_replicated_exactly(
    odd: Git, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, outcome = told(capsys, str(odd.folder), "--every", "--keep", str(tmp_path / "kept"))

    assert (code, outcome["faults"], outcome["verdict"]) == (0, [], "EQUAL")
    assert outcome["proven"] == outcome["commits"] == len(odd("rev-list", "HEAD").split())
    assert outcome["renames"] >= 2
    assert outcome["between"] > 0
    assert outcome["rolled_back"] > 0

    again, second = told(capsys, str(odd.folder), "--at", "HEAD~2", "--rollback", "HEAD~3", "--keep", str(tmp_path / "kept"))
    assert (again, second["faults"], second["proven"]) == (0, [], 1)
    odd.write("later", "1\n")
    odd("add", "later")
    odd("commit", "--quiet", "-m", "later")
    more, third = told(capsys, str(odd.folder), "--every", "--keep", str(tmp_path / "kept"))
    assert (more, third["faults"], third["proven"]) == (0, [], outcome["commits"] + 1)


def test_a_kept_folder_goes_on_with_what_was_merged_since(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    git, kept = Git(tmp_path / "grows"), ["--every", "--keep", str(tmp_path / "kept")]
    git.write(".gitmodules", '[submodule "sub"]\n\tpath = sub\n\turl = ./sub\n\tignore = all\n')
    git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},sub")
    git("add", ".gitmodules")
    git("commit", "--quiet", "-m", "a module that git is told to ignore")
    git("branch", "early")
    for number in range(3):
        git.write(f"file {number}", "1\n")
        git("add", f"file {number}")
        git("commit", "--quiet", "-m", "a step")
    code, first = told(capsys, str(git.folder), *kept)
    assert (code, first["faults"], first["proven"]) == (0, [], 4)

    git("checkout", "--quiet", "early")
    git("update-index", "--cacheinfo", f"160000,{'2' * 40},sub")
    git("commit", "--quiet", "-m", "the module moves")
    git("checkout", "--quiet", "main")
    git("merge", "--quiet", "--no-ff", "--no-edit", "early")
    again, second = told(capsys, str(git.folder), *kept)
    assert (again, second["faults"], second["proven"], second["commits"]) == (0, [], 6, 6)

    back, third = told(capsys, str(git.folder), *kept, "--rev", "main~1")
    assert (back, third["faults"], third["verdict"]) == (0, [], "EQUAL")


ROWS = [
    pytest.param({"a": [], "b": ["a"], "c": ["b"]}, "c", [], "abc", id="a chain"),
    pytest.param({"a": [], "b": ["a"], "s": ["a"], "m": ["b", "s"]}, "m", [], "asbm", id="a merge follows its first parent"),
    pytest.param({"a": [], "b": ["a"], "s": [], "t": [], "m": ["b", "s", "t"]}, "m", [], "tsabm", id="three roots"),
    pytest.param({"a": [], "b": ["a"], "s": ["a"], "m": ["b", "s"]}, "m", ["a", "b"], "sm", id="what is done stays done"),
    pytest.param({"b": ["a"], "c": ["b"]}, "c", [], "bc", id="a shallow clone"),
]


@pytest.mark.parametrize(("parents", "tip", "done", "row"), ROWS)
def test_commits_stand_in_a_row_behind_their_parents(
    parents: dict[str, list[str]], tip: str, done: list[str], row: str
) -> None:
    assert in_line(parents, tip, done) == list(row)


def test_paths_have_one_spelling_and_a_key_that_fits() -> None:
    paths = [b"plain", "für".encode(), b"\xff", b'"\\377"', b'"', b"a\nb"]
    assert len({spelled(path) for path in paths}) == len(paths)
    assert spelled(b"\xff") == '"\\377"'
    assert key_of(LONG) != LONG
    assert key_of("plain") == "plain"


def test_the_history_of_this_project_is_replicated_exactly(capsys: pytest.CaptureFixture[str]) -> None:
    if not (OWN / ".git").exists():
        return  # a copy without its history
    last = Repository(OWN).order("HEAD")[-1][0]
    code, outcome = told(capsys, str(OWN), "--commits", str(COMMITS_OF_OURS), "--rev", last)

    assert (code, outcome["faults"], outcome["verdict"]) == (0, [], "EQUAL")
    assert outcome["proven"] == min(COMMITS_OF_OURS, outcome["commits"])


@pytest.mark.parametrize("point", [Point.PUBLISH_WRITTEN, Point.ROLLBACK_COMMITTED], ids=lambda point: point.value)
async def test_a_killed_demo_goes_on_where_it_was(odd: Git, tmp_path: Path, point: Point) -> None:
    words = [
        sys.executable,
        "-m",
        "truecopy_services",
        "demo",
        "git",
        str(odd.folder),
        "--every",
        "--keep",
        str(tmp_path / "kept"),
    ]
    victim = await asyncio.create_subprocess_exec(
        *words,
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        env={**os.environ, HOLD_VARIABLE: point.value},
    )
    assert victim.stderr is not None
    async with asyncio.timeout(HELD_WITHIN_S):
        while not (line := await victim.stderr.readline()).decode().startswith(f"{HELD_LINE} {point.value}"):
            assert line, "it ended and was not held"
    victim.kill()
    await victim.communicate()

    odd.write("later", "1\n")
    odd("add", "later")
    odd("commit", "--quiet", "-m", "the history goes on meanwhile")
    done = await asyncio.create_subprocess_exec(*words, "--json", stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(HELD_WITHIN_S):
        out, _ = await done.communicate()
    outcome = json.loads(out.splitlines()[-1])
    assert (done.returncode, outcome["faults"], outcome["proven"]) == (0, [], outcome["commits"])


WRONG = [
    pytest.param(["--at", "nothing"], "has no commit 'nothing'", id="an unknown commit"),
    pytest.param(["--rollback", "one~99"], "has no commit", id="an unknown commit to roll back to"),
    pytest.param(["--rev", "one", "--at", "main"], "not among those replicated", id="a commit of another branch"),
]


@pytest.mark.parametrize(("words", "why"), WRONG)
def test_what_is_no_commit_is_refused_by_name(odd: Git, capsys: pytest.CaptureFixture[str], words: list[str], why: str) -> None:
    code, outcome = told(capsys, str(odd.folder), *words)
    assert (code, why in outcome["error"]) == (2, True), outcome


def test_the_repository_that_is_named_is_read_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, other = Git(tmp_path / "named"), Git(tmp_path / "other")
    for git, path in ((named, "here"), (other, "there")):
        git.write(path, "1\n")
        git.commit()
    monkeypatch.setenv("GIT_DIR", str(other.folder / ".git"))

    repository = Repository(named.folder)

    assert list(repository.tree(repository.resolve("HEAD"))) == ["here"]


def test_what_is_no_repository_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no git repository" in told(capsys, str(tmp_path))[1]["error"]
    assert "is no folder" in told(capsys, str(tmp_path / "nothing"))[1]["error"]
    empty = Git(tmp_path / "empty")
    assert "has no commit" in told(capsys, str(empty.folder))[1]["error"]
