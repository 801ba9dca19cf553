"""`truecopy verify`: what the log alone makes of a certificate; no app and no replica are needed."""

import asyncio
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Collection
from pathlib import Path

from truecopy_bus.errors import LogUnavailableError
from truecopy_bus.limits import RECORD_BYTES_MAX
from truecopy_bus.log import Log
from truecopy_bus.registry import SCHEMAS_TOPIC, Registry
from truecopy_projections.certificate import Certificate, Standing, verify
from truecopy_projections.certificate_form import read
from truecopy_projections.certificates_topic import CERTIFICATES_TOPIC, published
from truecopy_projections.signing_keys import public_key, trusted_keys
from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import Verb, app_of
from truecopy_services.config import Settings
from truecopy_services.errors import UsageError
from truecopy_services.opening import file_of, open_log, shown
from truecopy_services.service import TRUSTED_KEYS

__all__ = ["VERIFY"]

ID = re.compile(r"[0-9a-f]{8,64}")
"""A certificate's hash, or its beginning: eight digits tell one from four thousand million."""


def _arguments(parser: ArgumentParser) -> None:
    told = "a file, - for standard input, an id (or 8 digits of its beginning), or a projection, whose newest one is taken"
    parser.add_argument("certificate", metavar="CERT", help=told)
    parser.add_argument("--public-key", metavar="HEX|FILE", help="trust this key, and none of those that are pinned here")
    parser.add_argument(
        "--any-signer", action="store_true", help="whoever signed it; what the log says is all that counts then"
    )
    parser.add_argument("--app", metavar="APP", help="fold the log by this app's reducers too, and compare the rows' digests")


async def _verify(arguments: Namespace, screen: Screen) -> Exit:
    if arguments.public_key and arguments.any_signer:
        raise UsageError("--public-key trusts one key, --any-signer asks for none; give one of them")
    app = app_of(arguments.app) if arguments.app else None
    settings = app.settings() if app else Settings.load()
    trusted: frozenset[str] | None = None
    if not arguments.any_signer:
        pinned = settings.home / TRUSTED_KEYS
        trusted = frozenset({public_key(arguments.public_key)}) if arguments.public_key else trusted_keys(pinned)
    file = file_of(settings.log_of())
    if file is not None and not await asyncio.to_thread(file.exists):  # an embedded log would be made by the first question
        remedy = "name the log that it was issued on (TRUECOPY_LOG), or go to its folder"
        raise LogUnavailableError(log=shown(settings.log_of()), seen="there is no such file", remedy=remedy)
    log = open_log(settings)
    registry = Registry(log, topic=settings.topic_prefix + SCHEMAS_TOPIC)
    try:
        certificate = await _found(arguments.certificate, log, settings, trusted)
        projection = app.find(certificate.projection) if app else None
        found = await verify(
            certificate, log, registry, trusted=trusted, namespace=settings.topic_prefix, projection=projection
        )
    finally:
        await registry.close()
        await log.close()
    screen.say(f"certificate {certificate.id} of {certificate.projection} in {certificate.replica}")
    for one in found.findings:
        screen.say(f"  {one.about}: {one.standing.name}: {one.why}")
    if found.standing is Standing.VALID:
        screen.say(f"VALID: at {certificate.count} events the replica was a true copy of {certificate.entity}")
    else:
        screen.say(f"{found.standing.name}: {found.standing.value}")
    screen.finish({"valid": found.standing is Standing.VALID, **found.as_json()})
    return Exit.GOOD if found.standing is Standing.VALID else Exit.FAILED


async def _found(given: str, log: Log, settings: Settings, trusted: Collection[str] | None) -> Certificate:
    """The certificate that is meant. Raises UsageError for none and for several, and what reading it raises."""
    if given == "-" or await asyncio.to_thread(Path(given).is_file):
        return read(await asyncio.to_thread(_text, given))
    is_id, topic = bool(ID.fullmatch(given)), settings.topic_prefix + CERTIFICATES_TOPIC

    def wanted(one: Certificate) -> bool:
        return one.id.startswith(given) if is_id else given in (one.projection, one.projection.partition("@")[0])

    found = (await published(log, wanted, topic=topic)).found
    if not found:
        raise UsageError(
            f"{given!r} is no file, and {topic} has no certificate of that id or projection; see `truecopy certify`"
        )
    if is_id and len(found) > 1:
        raise UsageError(f"{len(found)} certificates begin with {given}; give more of it")
    ours = [one for one in found if trusted is None or one.public_key in trusted]
    return (ours or found)[-1]


def _text(given: str) -> bytes:
    """What is read of a file, or of standard input: one byte more than a certificate may have, at the most."""
    if given == "-":
        return sys.stdin.buffer.read(RECORD_BYTES_MAX + 1)
    with Path(given).open("rb") as file:
        return file.read(RECORD_BYTES_MAX + 1)


VERIFY = Verb(
    name="verify", purpose="hold a certificate against the log, without app or replica", arguments=_arguments, act=_verify
)
