"""Endpoints not routed by prefix: only the model is read."""

from __future__ import annotations

import pytest

from warmroute.core.errors import ClientError
from warmroute.core.types import Api
from warmroute.dialects import multipart_model, parse
from warmroute.dialects.other import form_model


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (b'{"model": "bge", "input": ["a", "b"]}', "bge"),
        (b'{"input": "a"}', ""),
        (b'{"model": null}', ""),
        (b'{"model": {"name": "bge"}}', ""),
        (b"[1, 2]", ""),
        (b'"text"', ""),
        (b"", ""),
    ],
)
def test_the_model_is_found_or_empty(body: bytes, model: str) -> None:
    parsed = parse(Api.OTHER, body)
    assert (parsed.model, parsed.canonical, parsed.prompt_bytes) == (model, b"", 0)


@pytest.mark.parametrize("body", [b"{", b"nope", b'{"model": "\xff"}', b"[" * 100_000, b"[1,"])
def test_json_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(ClientError) as caught:
        parse(Api.OTHER, body)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


def test_a_stream_is_noticed() -> None:
    assert parse(Api.OTHER, b'{"model": "m", "stream": true}').stream


FORM = b'multipart/form-data; boundary="--aB0"'


def form(*fields: tuple[bytes, bytes]) -> bytes:
    return (
        b"".join(b"----aB0\r\n" + head + b"\r\n\r\n" + value + b"\r\n" for head, value in fields)
        + b"----aB0--\r\n"
    )


FILE = b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav'
MODEL = b'Content-Disposition: form-data; name="model"'


def test_the_model_of_a_form_is_found_before_or_after_a_large_file() -> None:
    sound = b"\0\xff\r\n" * 100_000
    assert multipart_model(FORM, form((MODEL, b"whisper"), (FILE, sound))) == "whisper"
    assert multipart_model(FORM, form((FILE, sound), (MODEL, b"whisper"))) == "whisper"
    assert multipart_model(FORM, memoryview(form((FILE, b"x"), (MODEL, b"whisper")))) == "whisper"
    assert multipart_model(b"multipart/form-data; boundary=--aB0; x=y", form((MODEL, b"w"))) == "w"


def test_what_a_file_holds_is_not_taken_for_the_model() -> None:
    fake = b"\r\n--aB0\r\n" + MODEL + b"\r\n\r\nfake\r\n--aB0"
    assert multipart_model(FORM, form((FILE, fake), (MODEL, b"whisper"))) == "whisper"
    named = b'Content-Disposition: form-data; name="model"; filename="model"'
    assert multipart_model(FORM, form((named, b"fake"))) is None


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (b"multipart/form-data", form((MODEL, b"w"))),
        (b"application/json", b"{}"),
        (FORM, b""),
        (FORM, b"----aB0"),
        (FORM, b"----aB0\r\n" + MODEL),
        (FORM, b"----aB0\r\n" + MODEL + b"\r\n\r\nnever ends"),
        (FORM, form((MODEL, b""))),
        (FORM, form((MODEL, b"\xff"))),
        (FORM, form((MODEL, b"w" * 5000))),
        (FORM, b"----aB0" * 100_000),
        (FORM, form((FILE, b"x"))),
    ],
)
def test_a_form_without_a_readable_model_has_none(content_type: bytes, body: bytes) -> None:
    assert multipart_model(content_type, body) is None


PLAIN = b"multipart/form-data; boundary=B"
PARTS = {
    "curl": MODEL,
    "unquoted": b"content-disposition: form-data; name=model",
    "more fields": b'Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name="model"',
}
FILES = {
    "curl": FILE,
    "dotnet": b"Content-Disposition: form-data; name=file; filename=a.wav; filename*=utf-8''a.wav",
    "a name with quotes": b'Content-Disposition: form-data; name="file"; filename="a \\"b\\".wav"',
}


def plain_form(*parts: tuple[bytes, bytes], end: bytes = b"--\r\n") -> bytes:
    whole = b"".join(b"--B\r\n" + head + b"\r\n\r\n" + value + b"\r\n" for head, value in parts)
    return whole + b"--B" + end


@pytest.mark.parametrize("model", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
def test_a_form_is_read_to_its_end_where_its_model_decides(model: bytes, file: bytes) -> None:
    sound = b"\0\xff\r\n--\r\n--b\r\n" * 20_000
    assert form_model(PLAIN, plain_form((model, b"w"), (file, sound))) == "w"
    assert form_model(PLAIN, plain_form((file, sound), (model, b"w"), (file, sound))) == "w"
    assert (
        form_model(PLAIN, plain_form((model, b"first"), (file, sound), (model, b"last"), (file, b"")))
        == "last"
    )
    assert form_model(PLAIN, plain_form((file, sound))) == ""
    assert form_model(PLAIN, b"\r\n" + plain_form((model, b"w"), (file, sound))) == "w"
    more = b"--\r\n--B\r\n" + model + b"\r\n\r\nx\r\n--B--"
    assert form_model(PLAIN, plain_form((model, b"w"), end=more)) == "w"
    assert form_model(b'Multipart/Form-Data; boundary="B"', bytearray(plain_form((model, b"w")))) == "w"


def test_what_a_file_holds_between_its_lines_decides_nothing() -> None:
    fake = b"x--B\r\n" + MODEL + b"\r\n\r\nfake\r\nx--B"
    assert form_model(PLAIN, plain_form((MODEL, b"w"), (FILE, fake))) == "w"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (b"multipart/form-data; boundary=A; boundary=B", plain_form((MODEL, b"w"))),
        (b"multipart/form-data; boundary*=utf-8''B", plain_form((MODEL, b"w"))),
        (b"multipart/form-data", plain_form((MODEL, b"w"))),
        (b'multipart/form-data; boundary="B\\"', plain_form((MODEL, b"w"))),
        (PLAIN, b""),
        (PLAIN, b"\n" + plain_form((MODEL, b"w"))),
        (PLAIN, b"\r\n" * 100 + plain_form((MODEL, b"w"))),
        (PLAIN, plain_form((MODEL, b"w"), end=b"")),
        (PLAIN, plain_form((MODEL, b"w"))[:-4]),
        (PLAIN, plain_form((MODEL, b"w" * 300))),
        (PLAIN, plain_form((MODEL, b"\xff"))),
        (PLAIN, plain_form((MODEL + b"; x=y", b"w"))),
        (PLAIN, plain_form((b"Content-Disposition: form-data; name*=utf-8''mod%65l", b"w"))),
        (PLAIN, plain_form((b'Content-Disposition: form-data; name="mo\\del"', b"w"))),
        (PLAIN, plain_form((b'Content-Disposition: form-data; name="x"; name="model"', b"w"))),
        (PLAIN, plain_form((MODEL + b"\r\n" + MODEL, b"w"))),
        (PLAIN, plain_form((b"Content-Disposition: form-data;\r\n name=model", b"w"))),
        (PLAIN, plain_form((b"Content-Disposition : form-data; name=model", b"w"))),
        (PLAIN, plain_form((b"X: " + b"y" * 2000 + b"\r\n" + MODEL, b"w"))),
        (PLAIN, plain_form((b"Content-Type: text/plain", b"w"))),
        (PLAIN, b"--B\r\n" * 5000),
        (PLAIN, plain_form(*[(MODEL, b"w")] * 1100)),
    ],
)
def test_a_form_that_an_engine_might_read_otherwise_is_not_read(content_type: bytes, body: bytes) -> None:
    assert form_model(content_type, body) is None
