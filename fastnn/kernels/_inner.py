"""Functions that other compiled code takes in are neither optimised nor turned into machine code on their own.

Numba does both for every function that it compiles, and then all over again where the function has been inlined. The
second time is the one that counts; the first is a quarter of all compilation.
"""

from __future__ import annotations

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler


class _Codegen:
    """Numba's code generator, but for the environments of functions, which only exist in machine code."""

    def __init__(self, codegen: Any) -> None:
        self._codegen = codegen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codegen, name)

    def set_env(self, name: str, env: Any) -> None:
        pass


class _InnerLibrary(JITCodeLibrary):
    """A function and what it calls in LLVM's language, as Numba wrote it, for other libraries to link in."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """Return 0: there is no machine code."""
        self._ensure_finalized()
        return 0


class InnerCompiler(Compiler):
    """Numba's compiler for functions that are called from compiled code only (``pipeline_class``)."""

    def compile_extra(self, func: Any) -> Any:
        """Compile `func` into an `_InnerLibrary`."""
        codegen = _Codegen(self.state.targetctx.codegen())
        self.state.library = _InnerLibrary(codegen, func.__qualname__)
        return super().compile_extra(func)
