"""Small XML documents, read safely: elements, attributes and text, with the line of each element.

Decides how much a document may be: no document type and so no entities but XML's own five, no processing
instructions, bounded depth and number of elements. Comments are left out. What elements mean, others say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NoReturn
from xml.parsers import expat

from warmroute.caching.schemas.model import SchemaError

MOST_DEPTH: Final = 32
MOST_ELEMENTS: Final = 10_000


@dataclass(slots=True)
class Element:
    """One element, and what is in it."""

    tag: str
    attributes: dict[str, str]
    line: int
    children: list[str | Element] = field(default_factory=list)
    """Texts and elements in order; no two texts side by side."""

    def refuse(self, why: str) -> NoReturn:
        """Say what is wrong with it.

        Raises:
            SchemaError: Always.
        """
        raise SchemaError(f"line {self.line}: <{self.tag[:80]}> {why}", param="pml")


class _Reader:
    def __init__(self) -> None:
        self._parser = parser = expat.ParserCreate("utf-8")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.StartDoctypeDeclHandler = self._doctype
        parser.EntityDeclHandler = self._doctype
        parser.ProcessingInstructionHandler = self._instruction
        self._open: list[Element] = []
        self._count = 0
        self.root: Element | None = None

    def read(self, data: bytes) -> Element:
        try:
            self._parser.Parse(data, True)
        except expat.ExpatError as error:
            what = expat.errors.messages.get(error.code, str(error))
            raise SchemaError(
                f"line {error.lineno}, column {error.offset + 1}: {what}; & and < in text are written &amp; and &lt;",
                param="pml",
            ) from error
        finally:
            self._parser.StartElementHandler = None  # else the parser and this object keep each other
            self._parser.EndElementHandler = self._parser.CharacterDataHandler = None
            self._parser.StartDoctypeDeclHandler = self._parser.EntityDeclHandler = None
            self._parser.ProcessingInstructionHandler = None
        assert self.root is not None
        return self.root

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        element = Element(tag, attributes, self._parser.CurrentLineNumber)
        self._count += 1
        if self._count > MOST_ELEMENTS:
            element.refuse(f"is one element too many: {MOST_ELEMENTS} are the most")
        if len(self._open) >= MOST_DEPTH:
            element.refuse(f"is too deep: {MOST_DEPTH} elements within each other are the most")
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)

    def _end(self, tag: str) -> None:
        self._open.pop()

    def _text(self, text: str) -> None:
        children = self._open[-1].children
        if children and isinstance(children[-1], str):  # a comment stood between
            children[-1] += text
        else:
            children.append(text)

    def _doctype(self, *declared: object) -> NoReturn:
        raise SchemaError(
            f"line {self._parser.CurrentLineNumber}: a document type or an entity is declared, which is not read here:"
            " leave it out",
            param="pml",
        )

    def _instruction(self, *said: object) -> NoReturn:
        raise SchemaError(
            f"line {self._parser.CurrentLineNumber}: a processing instruction is not read here: leave it out",
            param="pml",
        )


def read(text: str) -> Element:
    """The root of a document.

    Raises:
        SchemaError: It cannot be read, or is more than may be.
    """
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise SchemaError("the text has half a character (a lone surrogate)", param="pml") from error
    return _Reader().read(data)
