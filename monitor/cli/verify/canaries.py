"""Canary requests: ordinary completions whose token ids come back, sent to the running server."""

from __future__ import annotations

import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from monitor.errors import FeaturewatchError

TEXT: Final = (
    "The ferry left the harbour before sunrise, and the baker was the only one who saw it go. On the hill the old mill "
    "turned slowly; its owner counted sacks of flour and wrote the numbers into a book with a green cover. "
)
LENGTHS: Final = (8, 60, 300, 2000)
"""Characters of the prompts; the longest is several copies of the text, more than a block of any prefix cache."""
_SECONDS: Final = 300.0


@dataclass(frozen=True)
class Canary:
    """One request and what the server says it processed.

    Attributes:
        request_id: the id as the server's answer gives it.
        token_ids: of the prompt and the answer, in order.
        prompt_tokens: how many of them are the prompt's.
    """

    request_id: str
    token_ids: tuple[int, ...]
    prompt_tokens: int

    @property
    def positions(self) -> int:
        """The last sampled token is never fed back."""
        return len(self.token_ids) - 1


@dataclass(frozen=True)
class Server:
    """An OpenAI-compatible vLLM server.

    Attributes:
        url: without the path, e.g. ``http://127.0.0.1:8000``.
        api_key: sent as bearer token if not empty.
    """

    url: str
    api_key: str = ""

    def models(self) -> list[str]:
        """Names of the served models; raises FeaturewatchError."""
        listed = self._call("/v1/models", None)
        return [str(entry["id"]) for entry in listed.get("data", [])]

    def complete(self, model: str, prompt: str, max_tokens: int) -> Canary:
        """Sends one prompt; raises FeaturewatchError."""
        body = {
            "model": model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0.0,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        answer = self._call("/v1/completions", body, request_id=f"verify-{secrets.token_hex(8)}")
        choice = answer["choices"][0]
        prompt_ids, output_ids = choice.get("prompt_token_ids"), choice.get("token_ids")
        if not prompt_ids or not output_ids:
            raise FeaturewatchError(
                f"answer of {self.url} without token ids",
                "canaries are compared token by token, which needs `return_token_ids`",
                "serve with a vLLM that knows this request field (0.11 or later)",
            )
        return Canary(str(answer["id"]), (*prompt_ids, *output_ids), len(prompt_ids))

    def _call(self, path: str, body: Any, request_id: str = "") -> Any:
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        if request_id:
            headers["X-Request-Id"] = request_id
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url.rstrip("/") + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            told = error.read(500).decode(errors="replace")
            raise FeaturewatchError(
                f"{path} of {self.url}",
                f"the server answered {error.code}: {told}",
                "check the address and --api-key",
            ) from error
        except (urllib.error.URLError, OSError, ValueError) as error:
            raise FeaturewatchError(
                f"server {self.url}",
                f"no OpenAI-compatible server answered ({error})",
                "start it, or give its address with --server http://HOST:PORT",
            ) from error


def prompts() -> list[str]:
    """One per length. Each begins with letters that no prompt began with before, so that no prefix cache knows it."""
    long = TEXT * (max(LENGTHS) // len(TEXT) + 1)
    return [f"{secrets.token_hex(6)} {long[:length]}" for length in LENGTHS]


def send(server: Server, model: str, texts: Sequence[str], max_tokens: int) -> list[Canary]:
    """All at once, so that they share batches; raises FeaturewatchError if any failed."""
    with ThreadPoolExecutor(len(texts)) as pool:
        return list(pool.map(lambda text: server.complete(model, text, max_tokens), texts))
