"""How Numba compiles our functions (``pipeline_class``), in two ways that differ from its own.

- Functions that other compiled code takes in are neither optimised nor turned into machine code on their own. Numba
  does both for every function that it compiles, and then all over again where the function has been inlined. The
  second time is the one that counts; the first is a quarter of all compilation.
- Loops are compiled for the widest vectors there are. LLVM takes half of them on Intel's CPUs with AVX-512, for fear of
  a lower clock, which the register tiles of the products have brought about by then, if anything does.
"""

from __future__ import annotations

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler

from fastnn.kernels._simd import target


class _Library(JITCodeLibrary):
    """A compiled function and what it calls."""

    def add_ir_module(self, ir_module: Any) -> None:
        """Take in a module of LLVM's language, its functions for wide vectors."""
        for function in ir_module.functions:
            if not function.is_declaration:
                # llvmlite's own `add` knows of no attribute that has a value.
                set.add(function.attributes, f'"prefer-vector-width"="{8 * target().vector_bytes}"')
        super().add_ir_module(ir_module)


class _InnerLibrary(_Library):
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


class _InnerCodegen:
    """Numba's code generator, but for the environments of functions, which only exist in machine code."""

    def __init__(self, codegen: Any) -> None:
        self._codegen = codegen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codegen, name)

    def set_env(self, name: str, env: Any) -> None:
        pass


class KernelCompiler(Compiler):
    """Numba's compiler for functions that Python calls, or compiled code by their address."""

    def compile_extra(self, func: Any) -> Any:
        """Compile `func` into a `_Library`."""
        self.state.library = _Library(self.state.targetctx.codegen(), func.__qualname__)
        self.state.library.enable_object_caching()
        return super().compile_extra(func)


class InnerCompiler(Compiler):
    """Numba's compiler for functions that are called from compiled code only."""

    def compile_extra(self, func: Any) -> Any:
        """Compile `func` into an `_InnerLibrary`."""
        codegen = _InnerCodegen(self.state.targetctx.codegen())
        self.state.library = _InnerLibrary(codegen, func.__qualname__)
        return super().compile_extra(func)
