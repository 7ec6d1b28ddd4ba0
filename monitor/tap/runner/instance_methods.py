"""Methods of one object of vLLM's that the tap has put its own in front of. The object's class is never changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class InstanceMethods:
    """Wraps methods of `instance`, and puts them back."""

    def __init__(self, instance: Any) -> None:
        self._instance = instance
        self._wrapped: list[str] = []

    def wrap(self, name: str, wrapper: Callable[..., Any]) -> None:
        setattr(self._instance, name, wrapper)
        self._wrapped.append(name)

    def restore(self, name: str) -> None:
        """The class's method shows again."""
        delattr(self._instance, name)
        self._wrapped.remove(name)

    def restore_all(self, *, but: str) -> None:
        for name in list(self._wrapped):
            if name != but:
                self.restore(name)

    def run_after(self, name: str, callback: Callable[..., None]) -> None:
        """Calls `callback` with the method's arguments when the method has run for the first time. It may raise."""
        original = getattr(self._instance, name)

        def once(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            self.restore(name)
            callback(*args, **kwargs)
            return result

        self.wrap(name, once)
