"""What the scheduler knows of a request and its token ids do not tell, put on the message that announces it to workers.

vLLM hands each new request to its workers as `NewRequestData`, pickled where a worker has a process of its own. The
scheduler adds one attribute to it, of plain Python types, so that a worker without Featurewatch can read the message.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from typing import Any, Final

from monitor.tap.log import logger
from monitor.tap.record import NewRequest
from monitor.tap.tenant import tenant_of

ATTRIBUTE: Final = "featurewatch"

Labels = tuple[bytes, tuple[tuple[int, bytes], ...]]
"""SHA-256 of the cache salt (empty without one), and (position, key) of each image or sound, ascending."""


def labels_of(request: Any) -> Labels:
    """Of vLLM's `Request`. The salt itself leaves the scheduler's process with nothing that Featurewatch sends."""
    salt = request.cache_salt
    return hashlib.sha256(salt.encode()).digest() if salt else b"", content_keys(request.mm_features)


def attach_labels(new_request_data: Any, labels: Labels) -> None:
    setattr(new_request_data, ATTRIBUTE, labels)


def new_request(new_request_data: Any) -> NewRequest:
    """What a runner adapter tells the tap of a request that is scheduled for the first time."""
    labels = getattr(new_request_data, ATTRIBUTE, None)
    if labels is None:
        # A scheduler that the plugin is not in. The features are here too; the salt is not, and states of equal tokens
        # under different salts are equal.
        try:
            labels = b"", content_keys(new_request_data.mm_features)
        except Exception as error:  # noqa: BLE001 -- the request must be announced; that it is like no other is safe
            logger.warning("featurewatch: the images of request %s have no names: %s", new_request_data.req_id, error)
            labels = b"", ((0, os.urandom(32)),)
    salt_sha256, keys = labels
    lora = new_request_data.lora_request
    tenant, fault = "", ""
    try:
        tenant = tenant_of(new_request_data.sampling_params)
    except Exception as error:  # noqa: BLE001 -- clients write it: whatever is in it, the request must be announced
        fault = str(error)
    return NewRequest(
        request_id=new_request_data.req_id,
        prompt_token_ids=new_request_data.prompt_token_ids or (),
        adapter=lora.lora_name if lora is not None else "",
        cache_salt_sha256=salt_sha256,
        content_keys=keys,
        tenant=tenant,
        fault=fault,
    )


def content_keys(mm_features: Iterable[Any]) -> tuple[tuple[int, bytes], ...]:
    """(position of the placeholder, SHA-256 of the content's identifier) per multimodal feature, ascending.

    The identifier names the content, with the adapter where that changes its embedding; vLLM's own block hashes use it.
    """
    keys = ((int(one.mm_position.offset), hashlib.sha256(one.identifier.encode()).digest()) for one in mm_features)
    return tuple(sorted(keys))
