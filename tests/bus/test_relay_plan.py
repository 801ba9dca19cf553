"""The relay's decision: what is sent, what waits for which version, and the figures after."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truecopy_bus.fold import UNKNOWN, Head, element, moved
from truecopy_bus.relay_plan import OutboxRow, plan

FINGERPRINT, OTHER = b"f" * 32, b"o" * 32


def row(row_id: int, key: str, version: int, *, body: bytes | None = None, fingerprint: bytes = FINGERPRINT) -> OutboxRow:
    return OutboxRow(row_id, key, version, fingerprint, body or f"{key}{version}".encode(), 1_000 + row_id)


def head(key: str, version: int) -> Head:
    """The head of a key whose bodies are those of `row`."""
    before, latest = b"", b""
    for each in range(1, version + 1):
        before, latest = latest, element(latest, key, each, FINGERPRINT, f"{key}{each}".encode())
    return Head(version, latest, before)


A1, A2, A3 = row(1, "a", 1), row(2, "a", 2), row(3, "a", 3)
CASES = [
    pytest.param([A1, A2], {}, [1, 2], [], {}, [], id="in order"),
    pytest.param([row(1, "a", 2), row(2, "a", 1)], {}, [2, 1], [], {}, [], id="the predecessor has the higher id"),
    pytest.param([row(1, "a", 3), row(2, "a", 2), row(3, "a", 1)], {}, [3, 2, 1], [], {}, [], id="all backwards"),
    pytest.param([A2, A3], {}, [], [], {"a": 1}, [], id="the first is not committed yet"),
    pytest.param([A1, A3], {}, [1], [], {"a": 2}, [], id="a hole is awaited behind what is sent"),
    pytest.param([A2], {"a": head("a", 1)}, [2], [], {}, [], id="the predecessor is on the log"),
    pytest.param([A1, A2], {"a": head("a", 1)}, [2], [1], {}, [], id="on the log already"),
    pytest.param([A1], {"a": head("a", 2)}, [], [1], {}, [], id="long on the log"),
    pytest.param([row(1, "a", 1, body=b"forged")], {"a": head("a", 1)}, [], [], {}, [1], id="other content"),
    pytest.param([A2, row(5, "b", 1)], {}, [5], [], {"a": 1}, [], id="a waiting key holds no other back"),
]


@pytest.mark.parametrize(("rows", "ledger", "sent", "known", "awaited", "conflicts"), CASES)
def test_plan(
    rows: list[OutboxRow],
    ledger: dict[str, Head],
    sent: list[int],
    known: list[int],
    awaited: dict[str, int],
    conflicts: list[int],
) -> None:
    planned = plan(rows, ledger, count=7, digest=0)

    assert [each.id for each in planned.send] == sent
    assert [each.id for each in planned.known] == known
    assert planned.awaited == awaited
    assert [each.id for each in planned.conflicts] == conflicts
    assert planned.count == 7 + len(sent)


def test_a_refused_type_holds_back_its_keys_later_versions_and_nothing_else() -> None:
    rows = [row(1, "a", 1), row(2, "a", 2, fingerprint=OTHER), row(3, "a", 3), row(4, "b", 1)]

    planned = plan(rows, {}, count=0, digest=0, refused={OTHER})

    assert [each.id for each in planned.send] == [1, 4]
    assert [each.id for each in planned.refused] == [2]
    assert [each.id for each in planned.waiting] == [3]


def test_a_refused_event_that_is_on_the_log_is_known() -> None:
    planned = plan([A1], {"a": head("a", 1)}, count=1, digest=0, refused={FINGERPRINT})

    assert planned.known == [A1]


def test_the_digest_replaces_a_keys_element_and_adds_a_new_key() -> None:
    before = moved(0, old=b"", new=head("a", 1).element)

    planned = plan([A2, row(9, "b", 1)], {"a": head("a", 1)}, count=1, digest=before)

    expected = moved(moved(0, old=b"", new=head("a", 2).element), old=b"", new=head("b", 1).element)
    assert planned.digest == expected
    assert planned.heads == {"a": head("a", 2), "b": head("b", 1)}


@st.composite
def histories(draw: st.DrawFn) -> list[list[OutboxRow]]:
    """Pages of one partition as they become visible: ids in any order, some rows only on later pages."""
    lengths = draw(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 6), min_size=1))
    changes = draw(st.permutations([(key, version) for key in lengths for version in range(1, lengths[key] + 1)]))
    rows = [row(row_id, key, version) for row_id, (key, version) in enumerate(changes, start=1)]
    visible_at = [draw(st.integers(0, 3)) for _ in rows]
    return [[each for each, at in zip(rows, visible_at, strict=True) if at <= turn] for turn in range(4)]


@given(histories())
def test_every_version_is_sent_once_and_in_order_however_ids_become_visible(pages: list[list[OutboxRow]]) -> None:
    ledger: dict[str, Head] = {}
    count, digest, sent = 0, 0, []
    for page in pages:
        done = {each.id for each in sent}
        planned = plan([each for each in page if each.id not in done], ledger, count=count, digest=digest)
        ledger, count, digest = ledger | planned.heads, planned.count, planned.digest
        sent += planned.send

    seen: dict[str, int] = {}
    for each in sent:
        assert each.version == seen.get(each.key, 0) + 1
        seen[each.key] = each.version
    assert len(sent) == len(pages[-1]) == count
    assert digest == sum(int.from_bytes(each.element) for each in ledger.values()) % 2**256


@given(histories())
def test_every_row_of_a_page_ends_up_in_one_list(pages: list[list[OutboxRow]]) -> None:
    planned = plan(pages[0], {"a": head("a", 2)}, count=2, digest=0, refused={OTHER})

    ends = (*planned.send, *planned.known, *planned.waiting, *planned.refused, *planned.conflicts)
    assert sorted(ends) == sorted(pages[0])
    assert planned.heads.get("a", UNKNOWN).version != 1
