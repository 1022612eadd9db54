"""Lists of models say which of them an engine means by none, and are shown as Anthropic's clients expect them.

Source: vLLM's entrypoints/openai/models/serving.py (`parent` of adapters, one `root` for all names of a model);
Anthropic's Models API, version 2023-06-01.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qs

MOST = 1000


def default_model(cards: Mapping[str, object]) -> str | None:
    """The one base model, by the first of its names; empty if nobody says what there is; None if there are several."""
    if not cards:
        return ""
    bases = {name: _field(card, "root") for name, card in cards.items() if _field(card, "parent") is None}
    if len(bases) == 1 or (len(set(bases.values())) == 1 and None not in bases.values()):
        return next(iter(bases))
    return None


def anthropic_model(name: str, card: object) -> dict[str, object]:
    """One model as Anthropic's API describes it."""
    created = _field(card, "created")
    try:
        moment = datetime.fromtimestamp(created if isinstance(created, int | float) else 0, UTC)
    except (ValueError, OverflowError, OSError):
        moment = datetime.fromtimestamp(0, UTC)
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def anthropic_list(cards: Mapping[str, object], query: bytes) -> dict[str, object]:
    """A page of the list, by `limit`, `after_id` and `before_id`; what cannot be read of these counts as absent."""
    asked = parse_qs(query.decode("latin-1"))
    names = list(cards)
    after, before = asked.get("after_id", [""])[0], asked.get("before_id", [""])[0]
    if after in cards:
        names = names[names.index(after) + 1 :]
    if before in cards:
        names = names[: names.index(before)] if before in names else []
    limit = asked.get("limit", [""])[0]
    most = min(max(1, int(limit)), MOST) if limit.isascii() and limit.isdigit() and len(limit) < 9 else MOST
    shown = names[-most:] if before in cards else names[:most]
    return {
        "data": [anthropic_model(name, cards[name]) for name in shown],
        "has_more": len(shown) < len(names),
        "first_id": shown[0] if shown else None,
        "last_id": shown[-1] if shown else None,
    }


def _field(card: object, name: str) -> object:
    return card.get(name) if isinstance(card, Mapping) else None
