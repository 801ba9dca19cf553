"""`truecopy schema prove`, as a person calls it, on an app of which two releases have published."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from truecopy_services.cli import main
from truecopy_services.loading import load_app
from truecopy_services.service import Service

APP = """
from dataclasses import dataclass
from truecopy_services import Event, ForeignTopic, Truecopy, upcasts

class Sold(Event, entity="{entity}", kind="delta"):
    pieces: int

class SoldBoxes(Event, entity="{entity}", kind="delta"):
    boxes: int

@upcasts(SoldBoxes, Sold)
def sold(old):
    if old.boxes < 0:
        raise ValueError("boxes came back")
    return Sold(pieces=old.boxes * 12)

@dataclass
class Stock:
    pieces: int

app = Truecopy("stock")
stock = app.projection("stock", entity="{entity}", row=Stock)

@stock.on(Sold)
def take(row, event, change):
    return Stock((row.pieces if row else 0) - event.pieces)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    name = f"stock_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(APP.format(entity=f"{name}.pieces"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    load_app(name)
    return __import__(name)


def publish(module: Any, *events: tuple[str, Any]) -> None:
    async def opened() -> None:
        async with module.app.open() as service:
            await relayed(service)

    async def relayed(service: Service) -> None:
        await service.publish_many([(key, event, None) for key, event in events])
        relay = service.relay()
        await relay.drain()
        await relay.leave()

    asyncio.run(opened())


def prove(module: Any, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = main(["schema", "prove", module.__name__, *words, "--json"])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_stored_events_are_told_by_old_type(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sold, boxes = module.Sold, module.SoldBoxes
    publish(module, ("a", boxes(boxes=1)), ("a", sold(pieces=3)), ("b", boxes(boxes=2)), ("c", sold(pieces=1)))

    code, told = prove(module, capsys)

    [found] = told["projections"]
    assert (code, told["holds"], found["keys"], found["unproven"]) == (0, True, 2, 0)
    assert [(name.split()[0].rpartition(".")[2], count) for name, count in found["events"].items()] == [("SoldBoxes", 2)]


def test_an_upcaster_that_fails_is_exit_code_1_and_names_the_key(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = module.SoldBoxes
    publish(module, ("a", boxes(boxes=1)), ("a", boxes(boxes=-1)), ("a", boxes(boxes=4)))

    code, told = prove(module, capsys, "stock")

    [found] = told["projections"]
    [parting] = found["partings"].values()
    assert (code, told["holds"], found["unproven"]) == (1, False, 2)
    assert (parting["key"], parting["version"]) == ("a", 2)
    assert "boxes came back" in parting["why"]


def test_a_projection_that_is_not_there_is_usage(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = prove(module, capsys, "elsewhere")

    assert (code, told["kind"]) == (2, "UsageError")


def test_a_topic_that_is_not_there_yet_is_unreachable(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, _ = prove(module, capsys)

    assert code == 3
