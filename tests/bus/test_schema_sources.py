"""Where the schemas of foreign topics come from: a folder, another's registry over HTTP, our own log; each says what it saw."""

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from truecopy_bus.errors import SchemasUnavailableError
from truecopy_bus.limits import SCHEMA_ANSWER_BYTES_MAX
from truecopy_bus.logs.memory import MemoryLog
from truecopy_bus.registry import Registry
from truecopy_bus.schema_sources import SchemaSource, schema_source
from truecopy_schemas.errors import UnknownSchemaError

SCHEMA = {"type": "record", "name": "crm.Customer", "fields": []}


def source(address: str) -> SchemaSource:
    return schema_source(address, Registry(MemoryLog()))


class Answers(BaseHTTPRequestHandler):
    """Answers what the path's last part names; counts and keeps what it was asked."""

    asked: ClassVar[list[tuple[str, str | None]]] = []
    said: ClassVar[dict[str, tuple[int, Any]]] = {
        "7": (200, {"schema": json.dumps(SCHEMA)}),
        "8": (200, {"schema": "syntax = 'proto3';", "schemaType": "PROTOBUF"}),
        "9": (200, {"schema": "{"}),
        "20": (404, {"error_code": 40403, "message": "Schema not found"}),
        "21": (404, {"error_code": 404, "message": "HTTP 404 Not Found"}),
        "22": (401, {}),
        "23": (200, {"id": 23}),
        "24": (200, {"schema": "x" * SCHEMA_ANSWER_BYTES_MAX}),
        "25": (503, []),
        "26": (302, {}),
    }

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["Authorization"]))
        status, said = self.said[self.path.rpartition("/")[2]]
        body = json.dumps(said).encode()
        self.send_response(status)
        if status == 302:
            self.send_header("Location", f"http://localhost:{self.server.server_address[1]}/7")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def registry_host() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


async def test_a_registry_is_asked_once_for_each_schema_with_its_login(registry_host: str) -> None:
    Answers.asked.clear()
    found = source(f"http://ada:s%40cret@{registry_host}/ccompat/")
    await found.refresh()

    assert (await found.schema(7)).schema == SCHEMA
    assert (await found.schema(7)).subject == f"http://{registry_host}/ccompat"
    assert (await found.schema(8)).schema == {"type": "PROTOBUF"}
    assert (await found.schema(9)).schema == {"type": "unreadable"}
    for _ in range(3):
        with pytest.raises(UnknownSchemaError):
            await found.schema(20)
    login = f"Basic {base64.b64encode(b'ada:s@cret').decode()}"
    assert Answers.asked == [(f"/ccompat/schemas/ids/{schema_id}", login) for schema_id in (7, 8, 9, 20)]


@pytest.mark.parametrize(
    ("schema_id", "seen"),
    [(21, "404"), (22, "401"), (23, "no schema"), (24, str(SCHEMA_ANSWER_BYTES_MAX)), (25, "503")],
    ids=["no registry there", "a refusal", "another answer", "an answer without end", "an overload"],
)
async def test_what_is_no_answer_of_a_registry_is_one_that_is_away(registry_host: str, schema_id: int, seen: str) -> None:
    with pytest.raises(SchemasUnavailableError, match=seen) as raised:
        await source(f"http://ada:secret@{registry_host}").schema(schema_id)
    assert "secret" not in str(raised.value)


async def test_a_login_is_not_for_whom_an_answer_refers_to(registry_host: str) -> None:
    Answers.asked.clear()
    assert (await source(f"http://ada:secret@{registry_host}").schema(26)).schema == SCHEMA
    assert [bool(login) for _, login in Answers.asked] == [True, False]


async def test_nobody_listening_and_no_http_are_away() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail\r\n")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(SchemasUnavailableError, match="220 mail"):
        await source(f"http://127.0.0.1:{port}").schema(7)
    server.close()
    await server.wait_closed()
    with pytest.raises(SchemasUnavailableError, match="refused"):
        await source(f"http://127.0.0.1:{port}").schema(7)


async def test_a_folder_holds_one_file_for_each_id(tmp_path: Path) -> None:
    found = source(f"folder:{tmp_path}")
    (tmp_path / "7.avsc").write_text(json.dumps(SCHEMA))

    assert (await found.schema(7)).schema == SCHEMA
    with pytest.raises(UnknownSchemaError):
        await found.schema(8)
    (tmp_path / "9.avsc").write_text('{"type": ')
    with pytest.raises(SchemasUnavailableError, match=r"9\.avsc holds no JSON"):
        await found.schema(9)
    (tmp_path / "9.avsc").write_text(json.dumps(SCHEMA))
    assert (await found.schema(9)).schema == SCHEMA
    with pytest.raises(SchemasUnavailableError, match="no such folder"):
        await source(f"folder:{tmp_path}/none").schema(7)


async def test_the_log_is_its_own_registry() -> None:
    registry = Registry(MemoryLog())
    assert schema_source("log:", registry) is registry


@pytest.mark.parametrize("address", ["", "folder:", "http:", "https://", "ftp://host", "registry:8081", "log:x"])
def test_an_address_of_something_else_is_refused_without_being_quoted(address: str) -> None:
    with pytest.raises(ValueError, match="expected http"):
        source(address)
