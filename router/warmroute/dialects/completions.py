"""The dialect of `/v1/completions` and `/inference/v1/generate` reads string, token-id and batch prompts.

A batch is fingerprinted by its first prompt and weighed by all of them.
"""

from __future__ import annotations

import msgspec
from xxhash import xxh3_128_hexdigest

from warmroute.core.errors import ClientError
from warmroute.core.prompt import prompt
from warmroute.dialects.fields import ABSENT, FALSE, NOT_GIVEN, ONE, Options, SessionFields
from warmroute.dialects.parsed import Parsed

_Prompt = str | list[int | str | list[int]] | None


class CompletionsRequest(SessionFields, gc=False):
    """The body; `token_ids` is what `/inference/v1/generate` calls its prompt."""

    model: str | None = None
    prompt: _Prompt = None
    token_ids: _Prompt = None
    prompt_embeds: msgspec.Raw = ABSENT
    stream: bool | None = None
    stream_options: Options = msgspec.UNSET
    n: msgspec.Raw = ABSENT
    cache_salt: str | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: int | None = None
    truncation_side: str | None = None
    prompt_logprobs: msgspec.Raw = ABSENT
    echo: msgspec.Raw = ABSENT
    logprobs: msgspec.Raw = ABSENT


_decode = msgspec.json.Decoder(CompletionsRequest).decode


def parse(body: bytes | bytearray | memoryview) -> Parsed:
    """Read a completions request.

    Raises:
        ClientError: No prompt.
        msgspec.MsgspecError, UnicodeError, RecursionError: The caller translates them.
    """
    request = _decode(body)
    value = request.prompt if request.prompt is not None else request.token_ids
    out: list[bytes] = []
    if request.add_special_tokens is False:
        out.append(prompt.SPECIAL_TOKENS)
    if request.truncate_prompt_tokens is not None:
        side = request.truncation_side or ""
        out.append(prompt.TRUNCATION + f"{request.truncate_prompt_tokens} {side}".encode())
    embeds = bytes(request.prompt_embeds)
    if embeds not in (b"", b"null", b"[]", b'""'):
        out.append(prompt.PROMPT_EMBEDS + xxh3_128_hexdigest(embeds).encode())
    elif value is None or value == "":
        raise ClientError("prompt: a prompt is required", code="prompt_required", param="prompt")
    rest_bytes, tokens_known = _add_prompt(out, value)
    canonical = b"".join(out)
    stream = request.stream is True
    return Parsed(
        request.model or "",
        request.cache_salt or "",
        canonical,
        len(canonical) + rest_bytes,
        stream,
        request,
        None,
        tokens_known,
        stream
        and request.prompt is not None  # not `token_ids`, whose answers have another form
        and request.stream_options is msgspec.UNSET
        and bytes(request.n) in ONE
        and _is_single(value),
        _reads_cache(request),
    )


def _reads_cache(request: CompletionsRequest) -> bool:
    """Source: vLLM's `to_sampling_params`: with `echo`, `prompt_logprobs` is `logprobs`."""
    if bytes(request.prompt_logprobs) not in NOT_GIVEN:
        return False
    return bytes(request.echo) in FALSE or bytes(request.logprobs) in NOT_GIVEN


def _is_single(value: _Prompt) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and value != [] and isinstance(value[0], int))


def _add_prompt(out: list[bytes], value: _Prompt) -> tuple[int, int | None]:
    """Add the first prompt; returns the bytes of the others, and how many tokens all are, if these are token ids."""
    if not value:
        return 0, None
    if isinstance(value, str):
        out.append(prompt.PROMPT_TEXT)
        out.append(value.encode())
        return 0, None
    first = value[0]
    try:
        if isinstance(first, str):
            texts = [text.encode() for text in value]  # type: ignore[union-attr]
            out.append(prompt.PROMPT_TEXT)
            out.append(texts[0])
            return sum(map(len, texts)) - len(texts[0]), None
        if isinstance(first, list):
            packed = [prompt.pack_tokens(ids) for ids in value]  # type: ignore[arg-type]
        else:
            packed = [prompt.pack_tokens(value)]  # type: ignore[arg-type]
    except (AttributeError, TypeError, OverflowError):
        raise msgspec.ValidationError("a prompt of mixed kinds") from None
    total_bytes = sum(map(len, packed))
    out.append(prompt.PROMPT_TOKENS)
    out.append(packed[0])
    return total_bytes - len(packed[0]), total_bytes // 4
