"""Drives of the bounds of effects: how many of one event, how large, how long a kind."""

import pytest
from tests.limits.drives import drives

from truecopy_projections import limits
from truecopy_projections.effects import Effect, fired
from truecopy_projections.errors import EffectRejectedError


@drives("projections.EFFECTS_EVENT_MAX")
def the_effects_of_an_event() -> None:
    some = [Effect("k", at) for at in range(limits.EFFECTS_EVENT_MAX)]

    assert len(fired("p", "a", 1, some)) == limits.EFFECTS_EVENT_MAX
    with pytest.raises(EffectRejectedError, match="more than"):
        fired("p", "a", 1, [*some, Effect("k", 0)])


@drives("projections.EFFECT_BYTES_MAX")
def the_payload_of_an_effect() -> None:
    text = "x" * (limits.EFFECT_BYTES_MAX - 2)

    assert len(fired("p", "a", 1, [Effect("k", text)])[0].payload) == limits.EFFECT_BYTES_MAX
    with pytest.raises(EffectRejectedError, match=f"has {limits.EFFECT_BYTES_MAX + 1} bytes"):
        fired("p", "a", 1, [Effect("k", text + "x")])


@drives("projections.EFFECT_KIND_CHARS_MAX")
def the_kind_of_an_effect() -> None:
    kind = "k" * limits.EFFECT_KIND_CHARS_MAX

    assert fired("p", "a", 1, [Effect(kind, 1)])[0].kind == kind
    with pytest.raises(EffectRejectedError, match="has not 1 to"):
        fired("p", "a", 1, [Effect(kind + "k", 1)])
