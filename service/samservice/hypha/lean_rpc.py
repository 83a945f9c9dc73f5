"""hypha-rpc (0.21.47) without aiortc, which it imports in case somebody calls its own WebRTC.

That is half of its import; it is made up for when the first peer is made. Where neither is imported
yet, import hypha-rpc through this module.
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
    """A class of a module that is imported when the class is called."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return getattr(import_module(self._module), self._name)(*arguments, **options)


class _DeferredModule(ModuleType):
    """Gives a stand-in for each class, so that ``from module import Class`` imports nothing."""

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
