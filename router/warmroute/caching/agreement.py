"""Whether two questions that sound alike ask the same: what embeddings do not tell, found by rules.

"12 plus 5" and "12 plus 6" are as near to each other for an embedding as two paraphrases are, and so are "open on
Monday" and "closed on Monday". This module decides by what must agree: numbers, names, units, dates, negations,
opposites and what is quoted (`CERTAIN`); and then by the words that are left, once how the question is put, words of
the same meaning and endings are set aside (`WORDS`). What differs in the former never means the same. What differs in
the latter may, and no rule can tell; whoever has a judge may ask it.

The rule it keeps: what it does not understand has to be equal. It has no clock. A question of ten words takes some
0.3 ms of a busy core.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

import msgspec

from warmroute.caching.lexicon import (
    DATES,
    FUTURE,
    NEGATIONS,
    NUMBERS,
    PAST,
    SAME,
    SIDES,
    STOPWORDS,
    UNCLEAR_UNITS,
    UNITS,
)
from warmroute.caching.phrasing import FRAMES, KINDS

CERTAIN: Final = ("quoted", "numbers", "names", "units", "dates", "negations", "opposites")
WORDS: Final = "words"

_TOKEN: Final = re.compile(
    r"https?://\S+|[\w.+-]+@[\w-]+\.[\w.]+"
    r"|\d+(?:[.,:/]\d+)*(?:st|nd|rd|th)?(?![^\W\d_])"
    r"|[^\W_]+(?:[.'_&-][^\W_]+)*|[!=<>]=|[+*/=<>%^$€£¥&|~#@\\{}\[\]]|(?<![\w])-(?=[\d(])|(?<=\s)-(?=\s)"
)
_QUOTED: Final = re.compile(r"\"([^\"]*)\"|“([^”]*)”|«([^»]*)»|`([^`]*)`|(?<!\w)'([^']{2,})'(?!\w)")
_RAISED: Final = re.compile(r"([⁰¹²³⁴-⁹]+)|([¼-¾⅐-⅞])")
"""Powers and fractions, which would become plain digits: 5³ is not 53."""
_CODE: Final = re.compile(r"[\n{};`\\]|\w\(|\)\s*[.:;]|->|=>|::|</")
_CONTRACTIONS: Final = (
    (re.compile(r"\b(ca|wo|sha)n['’]t\b", re.IGNORECASE), r"\1n not"),
    (re.compile(r"n['’]t\b", re.IGNORECASE), " not"),
    (re.compile(r"\b(what|who|where|when|how|why|that|there|it|here)['’]s\b", re.IGNORECASE), r"\1 is"),
    (re.compile(r"['’](?:re)\b", re.IGNORECASE), " are"),
    (re.compile(r"['’](?:ll)\b", re.IGNORECASE), " will"),
    (re.compile(r"['’](?:ve)\b", re.IGNORECASE), " have"),
    (re.compile(r"['’](?:m)\b", re.IGNORECASE), " am"),
    (re.compile(r"['’](?:d)\b", re.IGNORECASE), " would"),
)
_WHOLE: Final = {"can": "can", "wo": "will", "won": "will", "sha": "shall", "shan": "shall"}
_LED: Final = re.compile(
    r"^((?:in|for|with|using|on|at|under|inside|within|during) [^,?]{1,60}), (?=\w)(.+)$"
)
_SIGNS: Final = {
    "+": "plus", "-": "minus", "*": "times", "/": "divided", "%": "percent", "$": "usd", "€": "eur", "£": "gbp",
    "¥": "jpy", "=": "equals", "&": "and",
}  # fmt: skip
_ORDINAL: Final = re.compile(r"(\d+)(?:st|nd|rd|th)")
_GROUPED: Final = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_MIXED: Final = re.compile(r"(?=.*\d)(?=.*[^\W\d_])")
_NUMBER_UNIT: Final = re.compile(r"(\d+(?:[.,]\d+)*)([^\W\d_]{1,5})")

Texts = tuple[str, ...]


class Facts(msgspec.Struct, frozen=True, array_like=True):
    """What one question says, as far as it is compared."""

    quoted: Texts
    numbers: Texts
    names: Texts
    units: Texts
    dates: Texts
    negations: int
    sides: tuple[tuple[int, int], ...]
    words: Texts
    """In order, how the question is put first."""
    all: Texts
    """Every word in lower case, each once: a name may be written in small letters elsewhere."""


def facts_of(text: str) -> Facts:
    """Read a question."""
    text = unicodedata.normalize("NFKC", _RAISED.sub(_written, text)).strip()
    quoted = tuple(
        next(part for part in found.groups() if part is not None) for found in _QUOTED.finditer(text)
    )
    if _CODE.search(text):
        return _verbatim(text, quoted)
    plain = text
    for pattern, written in _CONTRACTIONS:
        plain = pattern.sub(written, plain)
    names = _names(plain)
    kind, rest = _kind(" ".join(plain.lower().replace("’", "'").split()).rstrip(" ?.!"))
    tokens = _tokens(rest)
    every = _tokens(plain.lower().replace("’", "'"))
    numbers, units = _numbers(tokens)
    negations = [word for word in every if word in NEGATIONS]
    return Facts(
        quoted,
        numbers,
        names,
        units,
        tuple(word for word in tokens if word in DATES),
        len(negations),
        tuple(sorted({side for word in every for side in SIDES.get(word, ())})),
        (kind, *_tense(every), *_words(tokens)),
        tuple(sorted({part for word in every for part in (word, word.removesuffix("'s"))})),
    )


def _written(found: re.Match[str]) -> str:
    """A power or a fraction as one writes it in plain digits."""
    if found[1]:
        return f"^{found[1]}"
    return f" {unicodedata.normalize('NFKC', found[2]).replace(chr(0x2044), '/')} "


def _verbatim(text: str, quoted: Texts) -> Facts:
    """Code, and lines of it: all of it counts, letter by letter but for blanks."""
    words = tuple(text.split())
    return Facts(quoted, (), (), (), (), 0, (), words, words)


def differ(one: Facts, other: Facts) -> str:
    """What of two questions does not agree: one of `CERTAIN`, `WORDS`, or empty if all of it does."""
    if one.quoted != other.quoted:
        return "quoted"
    if one.numbers != other.numbers:
        return "numbers"
    if not (_known(one.names, other) and _known(other.names, one)):
        return "names"
    if one.units != other.units:
        return "units"
    if sorted(one.dates) != sorted(other.dates):
        return "dates"
    if one.negations != other.negations:
        return "negations"
    if _opposed(one.sides, other.sides):
        return "opposites"
    return "" if one.words == other.words else WORDS


def _known(names: Texts, other: Facts) -> bool:
    """Whether another question has these names, in whatever letters."""
    return all(name in other.all or name in other.names for name in names)


def _opposed(one: tuple[tuple[int, int], ...], other: tuple[tuple[int, int], ...]) -> bool:
    """Whether they stand on different sides of what both speak of."""
    mine: dict[int, set[int]] = {}
    yours: dict[int, set[int]] = {}
    for number, side in one:
        mine.setdefault(number, set()).add(side)
    for number, side in other:
        yours.setdefault(number, set()).add(side)
    return any(number in yours and yours[number] != sides for number, sides in mine.items())


# -- reading ----------------------------------------------------------------------------------------------------------


def _tokens(text: str) -> list[str]:
    found: list[str] = []
    for token in _TOKEN.findall(text):
        both = _NUMBER_UNIT.fullmatch(token)
        if both is not None and (both[2] in UNITS or both[2] in DATES):
            found += [both[1], both[2]]
        else:
            found.append(_SIGNS.get(token, token))
    return found


def _names(text: str) -> Texts:
    """Words that are written as names are: with a capital not at a sentence's beginning, in capitals, or mixed with
    digits."""
    found = []
    for match in _TOKEN.finditer(text):
        word = match[0]
        bare = word.removesuffix("'s")
        capital = word[:1].isupper() and word not in ("I", "A")
        inside = any(letter.isupper() for letter in bare[1:])
        starts = capital and _begins_sentence(text, match.start())
        known = bare.lower()
        if (capital and (inside or not starts)) or inside or (_MIXED.match(word) and not _number_like(word)):
            if known not in DATES and known not in NUMBERS and known not in UNITS:
                found.append(known)
    return tuple(found)


def _begins_sentence(text: str, at: int) -> bool:
    """Whether a word there is the first of a sentence; looks back a little only, and says no in doubt."""
    before = text[max(0, at - 12) : at].rstrip(" \"'“(")
    return before[-1] in ".!?:;" if before else at <= 12


def _number_like(word: str) -> bool:
    both = _NUMBER_UNIT.fullmatch(word)
    return _ORDINAL.fullmatch(word) is not None or (
        both is not None and (both[2].lower() in UNITS or both[2].lower() in DATES)
    )


def _numbers(tokens: list[str]) -> tuple[Texts, Texts]:
    """Numbers and units, each in the order in which they are said."""
    numbers: list[str] = []
    units: list[str] = []
    for at, token in enumerate(tokens):
        value = _number(token)
        if value:
            numbers.append(value)
            continue
        unit = UNITS.get(token)
        if unit is not None and (token not in UNCLEAR_UNITS or (at and _number(tokens[at - 1]))):
            units.append(unit)
    return tuple(numbers), tuple(units)


def _number(token: str) -> str:
    """One number in one form; empty if it is none."""
    if token in NUMBERS:
        return NUMBERS[token]
    if not token[:1].isdigit():
        return ""
    ordinal = _ORDINAL.fullmatch(token)
    if ordinal is not None:
        return ordinal[1] + "."
    if _GROUPED.fullmatch(token):
        token = token.replace(",", "")
    if token.count(".") == 1 and token.replace(".", "").isdigit():
        token = token.rstrip("0").rstrip(".")
    return token.lstrip("0") or "0" if token.isdigit() else token


def _kind(text: str) -> tuple[str, str]:
    """What is asked for, and the rest of the question."""
    led = _LED.match(text)
    if led is not None:
        text = f"{led[2]} {led[1]}"
    usual = ""
    for _ in range(6):
        before = text
        for pattern, kind in FRAMES:
            text, count = pattern.subn("", text)
            if count:
                text = text.strip(" ,")
                usual = usual or kind
        if text == before:
            break
    led = _LED.match(text)
    if led is not None:
        text = f"{led[2]} {led[1]}"
    for pattern, kind in KINDS:
        found = pattern.match(text)
        if found is not None:
            if kind == "how x":
                kind = f"how {found[1]}"
            return kind, text[found.end() :]
    return usual, text


def _tense(tokens: list[str]) -> list[str]:
    found = []
    if any(word in PAST for word in tokens):
        found.append("<past>")
    if any(word in FUTURE for word in tokens):
        found.append("<future>")
    return found


def _words(tokens: list[str]) -> list[str]:
    """What is left of them, the owner before what is owned: "the capital of France" as "France's capital"."""
    found: list[str] = []
    at = 0
    while at < len(tokens):
        token = tokens[at]
        if token == "of" and found:
            owner, at = _run(tokens, at + 1)
            if owner:
                found[-1:] = [*owner, found[-1]]
            continue
        word = _word(token)
        if word:
            found.append(word)
        at += 1
    return found


def _run(tokens: list[str], at: int) -> tuple[list[str], int]:
    """The words up to the next that does not count, articles before them left out."""
    while at < len(tokens) and tokens[at] in ("the", "a", "an", "my", "our", "this", "these", "those"):
        at += 1
    found = []
    while at < len(tokens):
        word = _word(tokens[at])
        if not word or tokens[at] == "of":
            break
        found.append(word)
        at += 1
    return found, at


def _word(token: str) -> str:
    """A word as it is compared; empty if it does not count."""
    if token in STOPWORDS or token in PAST or token in FUTURE:
        return ""
    value = _number(token)
    if value:
        return value
    token = token.removesuffix("'s").removesuffix("'")
    if token in UNITS:
        return UNITS[token]
    if token in DATES:
        return token
    same = SAME.get(token)
    if same is None:
        stem = _stem(token)
        same = _STEMS.get(stem, stem)
        return same
    return _stem(same)


def _stem(word: str) -> str:
    """Without the endings that a word takes in another sentence."""
    if len(word) < 4 or not word.isascii() or not word.isalpha():
        return word
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith(("sses", "shes", "ches", "xes")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    if word.endswith("ing") and len(word) > 5:
        word = _undoubled(word[:-3])
    elif word.endswith("ed") and len(word) > 4:
        word = _undoubled(word[:-2])
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


def _undoubled(word: str) -> str:
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
        return word[:-1]
    return word


_STEMS: Final = {_stem(word): _stem(same) for word, same in SAME.items()}
