"""This module makes each API's requests as bytes; a dialogue keeps what was said, encoded once.

It decides which fields are sent. A context of 100,000 tokens is joined from encoded messages at every turn, not encoded
anew, so that a request of a long dialogue costs its process microseconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from warmroute_loadtest.locust.talks import Api, Manners, Talk
from warmroute_loadtest.locust.tape import Tape

PATHS = {
    Api.CHAT: "/v1/chat/completions",
    Api.MESSAGES: "/v1/messages",
    Api.COMPLETIONS: "/v1/completions",
    Api.EMBEDDINGS: "/v1/embeddings",
}


@dataclass(frozen=True, slots=True)
class Form:
    """What all bodies of a run have in common."""

    model: str
    ignore_eos: bool = True
    """Whether engines are told to give every answer its full length, by a field of vLLM's own."""


class Dialogue:
    """The bodies of one talk's requests, in order."""

    def __init__(self, talk: Talk, tape: Tape, form: Form) -> None:
        self._talk = talk
        self._tape = tape
        self._form = form
        self._system = tape.text(talk.system)
        self._said: list[bytes] = []
        if self._system and talk.api is Api.CHAT:
            self._said.append(_message("system", self._system))

    def ask(self, number: int) -> bytes:
        """Return the body of request `number`; it includes the answers that `answered` was told of."""
        talk, ask = self._talk, self._talk.asks[number]
        api = talk.api
        if api is Api.EMBEDDINGS:
            texts = [self._tape.text((piece,)) for piece in ask.text]
            return json.dumps({"model": self._form.model, "input": texts}).encode()
        text = self._tape.text(ask.text)
        if api is Api.COMPLETIONS:
            # A prompt is plain text here, and so is what was said before.
            said = json.dumps(("" if self._said else self._system) + text)[1:-1].encode()
            said = b"".join(self._said) + said
            if talk.grows:
                self._said = [said]
            field = b'"prompt":"' + said + b'"'
        else:
            if not talk.grows:
                self._said = []
            self._said.append(_message("user", text))
            field = b'"messages":[' + b",".join(self._said) + b"]"
            if api is Api.MESSAGES and self._system:
                field = b'"system":' + json.dumps(self._system).encode() + b"," + field
        return b"".join((b'{"model":', self._model(), b",", field, self._limits(ask.answer_tokens), b"}"))

    def answered(self, text: str) -> None:
        """Add an answer to what the next request carries."""
        if not self._talk.grows:
            return
        if self._talk.api is Api.COMPLETIONS:
            self._said.append(json.dumps(text)[1:-1].encode())
        else:
            self._said.append(_message("assistant", text))

    def _model(self) -> bytes:
        unknown = self._talk.manners is Manners.UNKNOWN_MODEL
        return json.dumps("no-such-model" if unknown else self._form.model).encode()

    def _limits(self, answer_tokens: int) -> bytes:
        fields: dict[str, object] = {"max_tokens": max(answer_tokens, 1), "temperature": 0, "stream": True}
        if self._talk.api is not Api.MESSAGES:
            fields["stream_options"] = {"include_usage": True}
        if self._form.ignore_eos:
            fields["ignore_eos"] = True
        if self._talk.manners is Manners.WRONG_TYPES:
            fields["max_tokens"] = {"not": "a number"}
        return b"," + json.dumps(fields).encode()[1:-1]


def _message(role: str, text: str) -> bytes:
    return b'{"role":"%b","content":%b}' % (role.encode(), json.dumps(text).encode())
