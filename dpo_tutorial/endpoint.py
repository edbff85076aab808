"""A judge behind any endpoint that speaks the protocol of OpenAI's chat completions."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from .judges import JudgeError, create_judge_prompt

_LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class EndpointJudge:
    """Asks `model` at `base_url` by `create_judge_prompt`; returns the reply's text.

    The key is `OPENAI_API_KEY` of the environment, else of Colab's secrets; a server on
    this machine needs none. It is no field, and is cut out of replies and errors, so
    that no output shows it. The `openai` client tries `max_retries` times more, with
    growing pauses, after a lost connection, a silence of `timeout` seconds, and the
    statuses 408, 409, 429 and 5xx. `temperature` or `max_tokens` of None are not sent.

    Raises ValueError for an address that is none, and where a key is needed and
    missing. A call raises JudgeError when all attempts are spent, or the reply is not
    a chat completion with a text.
    """

    model: str
    base_url: str = "https://api.openai.com/v1"
    temperature: float | None = 0.0
    max_tokens: int | None = 200
    timeout: float = field(default=60.0, repr=False)  # patience changes no verdict
    max_retries: int = field(default=5, repr=False)
    question: Callable[[str, str, str], str] = create_judge_prompt
    _client: Any = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        from openai import OpenAI

        client = OpenAI(
            api_key=_find_key(self.base_url),
            base_url=self.base_url,
            timeout=self.timeout,
            max_retries=self.max_retries,
        )
        object.__setattr__(self, "_client", client)

    def __call__(self, prompt: str, response_a: str, response_b: str) -> str:
        from openai import OpenAIError

        asked = self.question(prompt, response_a, response_b)
        limits = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        try:
            reply = self._client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": asked}],
                **{name: value for name, value in limits.items() if value is not None},
            )
            text = reply.choices[0].message.content
        except OpenAIError as error:
            raise self._failure(f"{type(error).__name__}: {error}") from None
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise self._failure(f"not a chat completion ({error!r})") from None
        except RecursionError:  # in the parser of JSON
            raise self._failure("not a chat completion (nested too deep)") from None
        if not isinstance(text, str):
            raise self._failure(f"a reply without a text ({text!r})")
        return self._without_key(text)

    def _failure(self, seen: str) -> JudgeError:
        text = self._without_key(seen)[:300]
        return JudgeError(f"{self.model} at {self.base_url}: {text}")

    def _without_key(self, text: str) -> str:
        """Some servers send the key back; a word such as "none" is no secret."""
        key = self._client.api_key
        return text.replace(key, "[key]") if len(key) >= 8 else text


def _find_key(base_url: str) -> str:
    """The key, from the environment or Colab's secrets."""
    address = urlsplit(base_url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ValueError(
            f"base_url is {base_url!r}: expected an address such as "
            "http://localhost:8000/v1"
        )
    if key := os.environ.get("OPENAI_API_KEY", "").strip():
        return key
    if address.hostname in _LOCAL:
        return "no-key"
    if key := (_colab_secret("OPENAI_API_KEY") or "").strip():
        return key
    raise ValueError(
        f"no OPENAI_API_KEY for {base_url}: expected it in the environment, or among "
        "Colab's secrets (the key symbol at the left) with access for this notebook"
    )


def _colab_secret(name: str) -> str | None:
    try:
        from google.colab import userdata
    except ImportError:
        return None
    try:
        return userdata.get(name)
    except (userdata.SecretNotFoundError, userdata.NotebookAccessError):
        return None
