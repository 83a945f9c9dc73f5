"""Import hypha-rpc (0.21.47) without aiortc, which it imports for its own WebRTC.

aiortc takes half of the import time; it is imported when the first peer is made. Import hypha-rpc
through this module wherever neither of them is imported yet.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from . import lean_httpx as lean_httpx

_WEBRTC = "aiortc"


class _Deferred:
    """A placeholder for a class; calling it imports the module and calls the class."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return getattr(import_module(self._module), self._name)(*arguments, **options)


class _DeferredModule(ModuleType):
    """Has a placeholder for each class, so that ``from module import Class`` imports nothing."""

    def __getattr__(self, name: str) -> _Deferred:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Deferred(self.__name__, name)


if _WEBRTC in sys.modules or find_spec(_WEBRTC) is None:
    from hypha_rpc import rpc, websocket_client
else:
    sys.modules[_WEBRTC] = _DeferredModule(_WEBRTC)
    try:
        from hypha_rpc import rpc, websocket_client
    finally:
        del sys.modules[_WEBRTC]

__all__ = ["rpc", "websocket_client"]
