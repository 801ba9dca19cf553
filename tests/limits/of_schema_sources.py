"""Drives of the bounds of `bus` for others that are asked: registries and folders of schemas, a server that lets nobody in."""

import logging
from pathlib import Path
from typing import Any

import pytest
from tests.limits.clock import Clock
from tests.limits.drives import BRIEF_S, drives

from truecopy_bus import limits, outage, schema_sources
from truecopy_bus.errors import LogAccessError, SchemasUnavailableError
from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.outage import Outage
from truecopy_bus.registry import Registry
from truecopy_bus.schema_sources import SchemaSource, schema_source
from truecopy_schemas.errors import UnknownSchemaError

SCHEMA = b'{"type": "record", "name": "n.R", "fields": []}'


def folder(path: Path) -> SchemaSource:
    return schema_source(f"folder:{path}", Registry(MemoryLog()))


class Trickling:
    """Stands for an answer that comes in pieces, each of so many bytes after so many seconds."""

    status = 200

    def __init__(self, clock: Clock, pieces: list[int], *, each_s: float = 0.0) -> None:
        self._clock, self._pieces, self._each_s = clock, iter(pieces), each_s

    def read1(self, _: int) -> bytes:
        self._clock.forward(self._each_s) if self._each_s else None
        return b"x" * next(self._pieces, 0)

    def __enter__(self) -> "Trickling":
        return self

    def __exit__(self, *_: object) -> None: ...


@drives("bus.SCHEMA_ANSWER_BYTES_MAX")
async def a_large_schema(clock: Clock, tmp_path: Path) -> None:
    clock.rule(schema_sources)
    most = limits.SCHEMA_ANSWER_BYTES_MAX
    (tmp_path / "7.avsc").write_bytes(SCHEMA + b" " * (most - len(SCHEMA)))
    (tmp_path / "8.avsc").write_bytes(SCHEMA + b" " * (most - len(SCHEMA) + 1))

    assert (await folder(tmp_path).schema(7)).id == 7
    with pytest.raises(SchemasUnavailableError, match=str(most)):
        await folder(tmp_path).schema(8)
    assert len(schema_sources._read(Trickling(clock, [most - 1, 1]), clock.monotonic() + 1)) == most
    with pytest.raises(ValueError, match=str(most)):
        schema_sources._read(Trickling(clock, [most, 1]), clock.monotonic() + 1)


@drives("bus.SCHEMA_MISSING_S")
async def a_schema_that_comes_late(clock: Clock, tmp_path: Path) -> None:
    clock.rule(schema_sources)
    source = folder(tmp_path)
    with pytest.raises(UnknownSchemaError):
        await source.schema(7)
    (tmp_path / "7.avsc").write_bytes(SCHEMA)

    await clock.reaches(limits.SCHEMA_MISSING_S - BRIEF_S)
    with pytest.raises(UnknownSchemaError):
        await source.schema(7)
    await clock.reaches(limits.SCHEMA_MISSING_S)
    assert (await source.schema(7)).id == 7


@drives("bus.SCHEMA_WAIT_S")
async def an_answer_that_trickles(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    clock.rule(schema_sources)
    waits: list[float] = []
    answer = Trickling(clock, [1] * 100, each_s=limits.SCHEMA_WAIT_S / 4)

    def opened(_: Any, *, timeout: float) -> Trickling:
        waits.append(timeout)
        return answer

    monkeypatch.setattr(schema_sources.urllib.request, "urlopen", opened)
    with pytest.raises(SchemasUnavailableError, match=f"more than {limits.SCHEMA_WAIT_S:g} s"):
        await schema_source("http://127.0.0.1:1", Registry(MemoryLog())).schema(7)

    assert waits == [limits.SCHEMA_WAIT_S]
    assert clock.now_s == limits.SCHEMA_WAIT_S * 5 / 4


@drives("bus.REFUSED_REPEAT_S")
async def a_server_that_lets_nobody_in(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    clock.rule(outage)
    fault, away = LogAccessError(log="kafka://k", seen="no", remedy="ask"), Outage(logging.getLogger("refused"), "r")

    for at, said in ((0.0, 1), (limits.REFUSED_REPEAT_S - BRIEF_S, 1), (limits.REFUSED_REPEAT_S, 2)):
        await clock.reaches(at)
        away.strike(fault)
        assert len(caplog.records) == said
