"""This module has the errors of the simulated server, in vLLM's words and shapes.

The code that raises an error decides its status. Errors have OpenAI's shape everywhere but on `/v1/messages`, where
they have Anthropic's.
"""

from __future__ import annotations

from typing import Any

QUEUE_FULL = (
    "The engine is currently busy and cannot accept new requests. "
    "Please try again later or on a different instance."
)
ENGINE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
DRAINING = "cannot schedule new futures after shutdown"

PAUSED = "Generation is paused. Please retry after it resumes."
"""The answer of a paused engine, as vLLM 0.33 words it."""

SCALING = "The model is currently scaling. Please try again later."
"""The answer of vLLM's elastic expert parallelism while it changes the number of engines, a bare string under `error`.
Source: vLLM 0.32, `ScalingMiddleware`."""

_TYPES = {
    400: "BadRequestError",
    404: "NotFoundError",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
}


class ApiError(Exception):
    """An answer that is no success; raising it ends the request."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, kind: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.kind = kind if kind is not None else _TYPES.get(status, "InternalServerError")

    def body(self, *, anthropic: bool = False) -> dict[str, Any]:
        """Return the JSON body that vLLM sends with this error."""
        if anthropic:
            return {"type": "error", "error": {"type": self.kind, "message": self.message}}
        return {
            "error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}
        }


def unknown_model(model: str) -> ApiError:
    """Return the 404 for a model that nobody serves here."""
    return ApiError(404, f"The model `{model}` does not exist.", param="model")


def invalid(message: str, *, param: str | None = None) -> ApiError:
    """Return the 400 for a request that is not what its API expects."""
    return ApiError(400, message, param=param)


def invalid_input(message: str) -> ApiError:
    """Return the 400 of the endpoints for adapters."""
    return ApiError(400, message, kind="InvalidUserInput")


def too_long(prompt_tokens: int, max_model_len: int) -> ApiError:
    """Return the 400 for a prompt that leaves no room for an answer."""
    return ApiError(
        400,
        f"This model's maximum context length is {max_model_len} tokens. However, your request has {prompt_tokens} "
        "input tokens. Please reduce the length of the input messages.",
        param="input_tokens",
    )
