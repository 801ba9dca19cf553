"""`truecopy quarantine`: what waits and why, one key as a whole, and what an operator does about it."""

import os
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from truecopy_bus.record import Headers
from truecopy_projections.quarantine import ParkedKey, remedy_of
from truecopy_projections.state import Reason
from truecopy_services.app import Truecopy
from truecopy_services.cli.publish import strictly
from truecopy_services.cli.screen import Exit, Screen
from truecopy_services.cli.verb import APP_VARIABLE, Verb, app_argument, app_of, count
from truecopy_services.errors import UsageError
from truecopy_services.operating.bodies import Said, plain
from truecopy_services.operating.lines import BYTES_SHOWN, escaped
from truecopy_services.quarantine import Listing, Quarantine, Ruled, Shown
from truecopy_services.quarantine_files import exported, imported
from truecopy_services.working import answering_within

__all__ = ["QUARANTINE"]

KEYS_SHOWN = 100
"""Keys and foreign records that `list` names unless --limit says otherwise."""
NAMES = {
    "list": (0, "no further name"),
    "show": (1, "one KEY"),
    "retry": (None, "KEYs, or --reason R, or --all"),
    "edit": (1, "one KEY"),
    "skip": (None, "one KEY, or --offset P:O of a foreign record"),
    "export": (1, "one FILE"),
    "import": (1, "one FILE"),
}
_REASONS = {reason.name: reason for reason in Reason if reason is not Reason.BEHIND}


def _arguments(parser: ArgumentParser) -> None:
    told = (
        "list: by reason and key; show: one key; retry: try parked keys again; edit, skip: rule about the event that holds up "
        "its key; export, import: all that waits as JSON lines, and the rulings in them"
    )
    parser.add_argument("what", choices=tuple(NAMES), help=told)
    app_argument(parser)
    parser.add_argument(
        "name", metavar="PROJECTION NAME", nargs="*", help="; ".join(f"{what}: {told}" for what, (_, told) in NAMES.items())
    )
    parser.add_argument("--reason", choices=tuple(_REASONS), help="list and retry: only what waits for this reason")
    parser.add_argument("--key", help="list: only this key")
    parser.add_argument("--limit", type=count, default=KEYS_SHOWN, metavar="N", help="list: name at most so many keys")
    parser.add_argument("--all", action="store_true", help="retry: all parked keys")
    told = "edit: a field of the event and its value, as JSON or as text; may be given again"
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help=told)
    parser.add_argument("--body", metavar="JSON", help="edit: the whole event")
    parser.add_argument("--type", default="", metavar="TYPE", help="edit: another event type of the entity")
    parser.add_argument("--offset", metavar="P:O", help="skip: partition and offset of a foreign record")
    parser.add_argument(
        "--why", default="", metavar="TEXT", help="edit, skip, import: the reason, which stands in certificates"
    )
    parser.add_argument("--by", default="", metavar="NAME", help="who rules; by default the user of this process")
    parser.add_argument("--dry-run", action="store_true", help="tell what would come of it, and change nothing")


async def _quarantine(arguments: Namespace, screen: Screen) -> Exit:
    app, projection, names = _words(arguments)
    _refuse_mixed(arguments, names)
    async with app.open(store=False) as service:
        answering = answering_within(service.settings.timeout_s, f"replica of {projection}")
        async with answering, service.replica_adapter.snapshot():
            pass
        quarantine = service.quarantine(app.find(projection), by=arguments.by)
        match arguments.what:
            case "list":
                reason = _REASONS.get(arguments.reason or "")
                return _list(await quarantine.listing(reason=reason, key=arguments.key, limit=arguments.limit), screen)
            case "show":
                return _show(await quarantine.show(names[0]), screen)
            case "retry":
                return await _retry(quarantine, arguments, names, screen)
            case "edit":
                body = strictly(arguments.body.encode()) if arguments.body is not None else None
                how: dict[str, Any] = {"body": body, "kind": arguments.type, "why": arguments.why}
                done = await quarantine.edit(names[0], arguments.set, **how, dry_run=arguments.dry_run)
                return _ruled(names[0], done, arguments, screen)
            case "skip" if arguments.offset:
                return await _dismiss(quarantine, arguments, screen)
            case "skip":
                return _ruled(
                    names[0], await quarantine.skip(names[0], why=arguments.why, dry_run=arguments.dry_run), arguments, screen
                )
            case "export":
                lines = await exported(quarantine, Path(names[0]))
                screen.say(f"{lines} records that wait are in {names[0]}")
                screen.finish({"exported": lines, "file": names[0]})
                return Exit.GOOD
        taken = await imported(quarantine, Path(names[0]), why=arguments.why, dry_run=arguments.dry_run)
    would = "would be made" if arguments.dry_run else "made"
    screen.say(
        f"{taken.lines} lines rule: {taken.made} rulings {would}, {taken.held} held already; {taken.parked} keys wait again"
    )
    screen.finish(
        {"lines": taken.lines, "made": taken.made, "held": taken.held, "parked": taken.parked, "dry_run": arguments.dry_run}
    )
    return Exit.GOOD


def _words(arguments: Namespace) -> tuple[Truecopy, str, list[str]]:
    """The app, the projection, and the names. Where TRUECOPY_APP stands in for the app, the first word is the projection."""
    expected, told = NAMES[arguments.what]
    words = [word for word in (arguments.app, *arguments.name) if word is not None]
    stands_in = bool(os.environ.get(APP_VARIABLE))
    if expected is not None and len(words) == expected + 1 and stands_in:
        return app_of(None), words[0], words[1:]
    if len(words) < 2 or (expected is not None and len(words) != expected + 2):
        raise UsageError(
            f"`quarantine {arguments.what}` takes an app, a projection and {told}; see `truecopy quarantine --help`"
        )
    return app_of(words[0]), words[1], words[2:]


def _refuse_mixed(arguments: Namespace, names: Sequence[str]) -> None:
    """Raises UsageError for options and names that do not go together."""
    what = arguments.what
    if what == "retry" and sum((bool(names), bool(arguments.reason), arguments.all)) != 1:
        raise UsageError("`quarantine retry` takes KEYs, or --reason R, or --all: one of them")
    if what == "skip" and (len(names) > 1 or bool(names) == bool(arguments.offset)):
        raise UsageError("`quarantine skip` takes one KEY, or --offset P:O of a foreign record")
    if what == "edit" and bool(arguments.set) == (arguments.body is not None):
        raise UsageError("`quarantine edit` takes --set FIELD=VALUE, or --body JSON: one of them")
    if what in ("edit", "skip") and not arguments.why.strip():
        raise UsageError(f"`quarantine {what}` takes --why TEXT: the reason stands in every certificate from now on")
    if what in ("list", "show", "export") and arguments.dry_run:
        raise UsageError(f"`quarantine {what}` changes nothing anyway; leave out --dry-run")


def _list(found: Listing, screen: Screen) -> Exit:
    for reason, keys in found.keys.items():
        screen.say(f"{reason.name}: {found.counts[reason]} keys: {reason.value}; {remedy_of(reason)}")
        for one in keys:
            version = f"version {one.head.version}" if one.head else f"after version {one.applied}"
            waits = f"{one.behind} behind it, {one.bytes:,} bytes, the oldest {_age(one.oldest_ms)} old"
            screen.say(escaped(f"  {one.key!r} {version}: {one.detail or 'no detail'}; {waits}"))
    if found.foreign:
        screen.say(f"FOREIGN: {found.counts[Reason.FOREIGN]} records: {Reason.FOREIGN.value}; {remedy_of(Reason.FOREIGN)}")
        for waiting in found.foreign:
            place = f"--offset {waiting.partition}:{waiting.offset}"
            screen.say(escaped(f"  {place}: {waiting.detail}; {waiting.size:,} bytes, {_age(waiting.timestamp_ms)} old"))
    screen.say(f"{found.records} records wait, {found.bytes:,} bytes{f'; {found.more} more keys' if found.more else ''}")
    screen.finish(
        {
            "keys": [one.as_json() for keys in found.keys.values() for one in keys],
            "foreign": [
                {"partition": one.partition, "offset": one.offset, "detail": one.detail, "bytes": one.size}
                for one in found.foreign
            ],
            "counts": {reason.name: number for reason, number in found.counts.items()},
            "records": found.records,
            "bytes": found.bytes,
            "more": found.more,
        }
    )
    return Exit.GOOD


def _show(found: Shown, screen: Screen) -> Exit:
    one: ParkedKey = found.parked
    first = one.head or found.waiting[0]
    screen.say(escaped(f"{one.key!r} is parked at version {one.applied}: {one.reason.name}: {one.detail}"))
    value = first.record_value or b""
    place = f"partition {first.partition} offset {first.offset}"
    screen.say(escaped(f"  {'at its head' if one.head else 'first of what waits'}: version {first.version}, {place}"))
    screen.say(escaped(f"  {_told(found.said)}"))
    cut = f" and {len(value) - BYTES_SHOWN} bytes more" if len(value) > BYTES_SHOWN else ""
    screen.say(f"  bytes: {value[:BYTES_SHOWN].hex() or 'none'}{cut}")
    for waiting in found.waiting:
        if waiting is not first:
            screen.say(f"  waits too: version {waiting.version} at offset {waiting.offset} ({waiting.reason.name})")
    screen.say(f"  what to do: {found.remedy}")
    screen.finish(
        {
            **one.as_json(),
            **_said(found.said),
            "record_key": _hex(first.record_key),
            "record_value": _hex(first.record_value),
            "headers": _headers(first.headers),
            "waiting": [
                {"version": w.version, "partition": w.partition, "offset": w.offset, "reason": w.reason.name}
                for w in found.waiting
            ],
        }
    )
    return Exit.GOOD


async def _retry(quarantine: Quarantine, arguments: Namespace, names: Sequence[str], screen: Screen) -> Exit:
    """Exit code 1 where a key is parked still."""
    reason = _REASONS.get(arguments.reason or "")
    done = await quarantine.retry(names, reason=reason, dry_run=arguments.dry_run)
    would = "would go on" if arguments.dry_run else "went on"
    screen.say(f"{len(done.keys) - len(done.why)} of {len(done.keys)} keys and {done.freed} records {would}")
    for key, why in sorted(done.why.items())[:KEYS_SHOWN]:
        screen.say(escaped(f"  {key!r} waits: {why}"))
    screen.finish({"keys": sorted(done.keys), "freed": done.freed, "parked": dict(done.why), "dry_run": arguments.dry_run})
    return Exit.FAILED if done.why else Exit.GOOD


async def _dismiss(quarantine: Quarantine, arguments: Namespace, screen: Screen) -> Exit:
    partition, _, offset = arguments.offset.partition(":")
    if not (partition.isdecimal() and offset.isdecimal()):
        raise UsageError(f"--offset {arguments.offset!r}: write PARTITION:OFFSET, as `quarantine list` does")
    made = await quarantine.dismiss(int(partition), int(offset), why=arguments.why, dry_run=arguments.dry_run)
    ended = "would be dismissed" if arguments.dry_run else "is dismissed"
    screen.say(f"the foreign record at offset {offset} of partition {partition} {ended}")
    screen.finish({"amendment": made.as_json() if made else None, "dry_run": arguments.dry_run})
    return Exit.GOOD


def _ruled(key: str, done: Ruled, arguments: Namespace, screen: Screen) -> Exit:
    would = "would be " if arguments.dry_run else ""
    if done.amendment is not None:
        screen.say(escaped(f"{key!r} version {done.amendment.version}: {would}{done.amendment.ruling.name}: {arguments.why}"))
    screen.say(escaped(f"  the event: {_told(done.before)}"))
    if done.after.type:
        screen.say(escaped(f"  in its place: {_told(done.after)}"))
    for told, rows in (("rows before", done.rows_before), ("rows after", done.rows_after)):
        screen.say(escaped(f"  {told}: {_json(rows)}"))
    stands = f"it waits again: {done.parked}" if done.parked else "nothing of it waits any more"
    screen.say(escaped(f"  {would or ''}at version {done.applied}; {stands}"))
    screen.finish(
        {
            "amendment": done.amendment.as_json() if done.amendment else None,
            "before": _said(done.before),
            "after": _said(done.after) if done.after.type else None,
            "rows_before": plain(list(done.rows_before)),
            "rows_after": plain(list(done.rows_after)),
            "applied": done.applied,
            "parked": done.parked,
            "dry_run": arguments.dry_run,
        }
    )
    return Exit.GOOD


def _told(said: Said) -> str:
    name = said.type or "of no known type"
    return f"{name}: not readable: {said.why}" if said.fields is None else f"{name} {_json(said.fields)}"


def _said(said: Said) -> dict[str, Any]:
    return {"type": said.type, "fields": plain(said.fields), "problem": said.why}


def _json(value: Any) -> str:
    return to_json(plain(value)).decode()


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def _headers(headers: Headers) -> list[list[str]]:
    return [[name, value.hex()] for name, value in headers]


def _age(at_ms: int) -> str:
    return f"{max(0.0, time.time() - at_ms / 1000):.0f} s"


QUARANTINE = Verb(
    name="quarantine", purpose="see, retry, edit and skip what can't be applied", arguments=_arguments, act=_quarantine
)
