"""The one place with JIT options: how every kernel is compiled, cached and threaded.

The decorators, from the inside out:

``formula``   a scalar function that is always inlined and whose rounding is kept as written
              (fused multiply-add allowed, reassociation not: it would cancel compensated terms);
``inlined``   a small loop that is always inlined;
``block``     a serial loop over one block, called from other compiled code;
``Task``      a block function that is compiled once, on its own, and called by its address;
``entry``     a serial function that Python calls: cached on disk.

Threads of our own share the work (`_pool.py`, `_team.py`); no loop is a parallel loop of Numba.

No decorator compiles anything at import. None of the fast-math sets has ``nnan`` or ``ninf``: a NaN
stays visible all the way to the loss.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import inspect
import os
import sys
import warnings
from collections.abc import Callable
from importlib import resources
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core import caching
from numba.extending import intrinsic

from fastnn.kernels._pipelines import InnerCompiler, KernelCompiler

_config: Any = numba.config
if _config.DISABLE_JIT:
    raise ImportError(
        "NUMBA_DISABLE_JIT: got 1, expected it unset: fastnn's kernels are compiled code and nothing else"
    )

EXACT = {"nsz", "contract"}
FAST = {"nsz", "arcp", "contract", "afn", "reassoc"}

_COMMON: dict[str, Any] = {"nogil": True, "error_model": "numpy", "pipeline_class": KernelCompiler}
# "_nrt" off: nothing here allocates, and references of arrays, which the caller holds, need not be counted.
_CALLED: dict[str, Any] = {**_COMMON, "no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False}
_INNER: dict[str, Any] = {**_CALLED, "pipeline_class": InnerCompiler}


@functools.cache
def kernel_sources_stamp() -> str:
    """Return a hash over every kernel source file: the cache key of all compiled kernels.

    Numba's own key sees only the file a function stands in, and would serve stale code after an edit in
    a file that is inlined into it.
    """
    digest = hashlib.sha256()
    add_sources(digest, __package__)
    return digest.hexdigest()


def add_sources(digest: Any, package: str) -> None:
    """Add the source files of a package to a hash, from a zip file too; where a program has none of them, the program.

    Without any source two versions would have one key, and the later one would run the code of the earlier.
    """
    folder = resources.files(package)
    files = [file for file in folder.iterdir() if file.name.endswith((".py", ".pyc"))] if folder.is_dir() else []
    for file in sorted(files, key=lambda file: file.name):
        digest.update(f"{package}/{file.name}\n".encode())
        digest.update(file.read_bytes())
    if not files:
        program = os.stat(sys.executable)
        digest.update(f"{package} in {program.st_size} bytes of {program.st_mtime_ns}\n".encode())


@functools.cache
def own_files(base: Any) -> Any:
    """Return a subclass of Numba's `IndexDataCacheFile` whose files say what they are for.

    Two processes that compile a function for two float types at once may both write the index before either writes its
    code, and then under one name. A file with other code than the index has it for is taken for none.
    """

    class OwnFiles(base):
        def save(self, key: Any, data: Any) -> None:
            marked = self._source_stamp, key, data
            try:
                super().save(key, marked)
            except OSError:
                raise
            except Exception:  # whatever a damaged index leads to: it is written anew
                self.flush()
                super().save(key, marked)

        def load(self, key: Any) -> Any:
            *what, data = super().load(key) or (None,)
            return data if what == [self._source_stamp, key] else None

    return OwnFiles


class _KernelCache(caching.FunctionCache):
    """Numba's function cache, keyed by all kernel sources; a full or broken disk never stops a call."""

    def __init__(self, py_func: Callable[..., Any]) -> None:
        super().__init__(py_func)
        self._cache_file = own_files(caching.IndexDataCacheFile)(
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=kernel_sources_stamp(),
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # whatever a damaged file leads to: the code is compiled again
            _warn_once(f"fastnn: the compiled-kernel cache in {self._cache_path} cannot be read ({error})")
            return None

    def holds(self, sig: Any, target_context: Any) -> bool:
        """Return whether code for a signature lies on disk."""
        try:
            return self._index_key(sig, target_context.codegen()) in self._cache_file._load_index()
        except Exception:  # as in `load_overload`, which says so
            return False

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _warn_once(f"fastnn: the compiled-kernel cache in {self._cache_path} cannot be written ({error})")


_warned: set[str] = set()


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def _cached(dispatcher: Any) -> Any:
    """Turn on the disk cache of `dispatcher`; without any writable directory, go on without one."""
    try:
        dispatcher._cache = _KernelCache(dispatcher.py_func)
    except RuntimeError:
        _warn_once(
            "fastnn: no writable directory for compiled kernels, so each process compiles them again; "
            "set NUMBA_CACHE_DIR to a writable directory"
        )
    return dispatcher


def _any_number(dispatcher: Any) -> Any:
    """Make calls from compiled code with literal arguments share one compilation.

    Numba would compile a function again for each literal number it is called with.
    """
    template = dispatcher.get_call_template

    def get_call_template(args: Any, kws: Any) -> Any:
        return template([types.unliteral(a) for a in args], {name: types.unliteral(a) for name, a in dict(kws).items()})

    dispatcher.get_call_template = get_call_template
    return dispatcher


def formula(function: Callable[..., Any]) -> Any:
    """Compile a scalar formula: always inlined, rounding as written."""
    return _any_number(numba.njit(forceinline=True, fastmath=EXACT, **_INNER)(function))


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a small loop that must be inlined into its caller."""
    return _any_number(numba.njit(forceinline=True, fastmath=FAST, **_INNER)(function))


def block(function: Callable[..., Any]) -> Any:
    """Compile a serial loop over one block, for callers that are compiled themselves."""
    return _any_number(numba.njit(fastmath=FAST, **_INNER)(function))


entries: list[Any] = []
"""Every function that Python calls, for a test that `warmup` leaves none out."""


def entry(function: Callable[..., Any]) -> Any:
    """Compile a serial function that Python calls; cached on disk."""
    entries.append(_any_number(_cached(numba.njit(fastmath=FAST, **_COMMON)(function))))
    return entries[-1]


def like_writable(array: np.ndarray) -> np.ndarray:
    """Return a C-contiguous array itself, or where it is read-only an array that says it is not, on the same memory."""
    if array.flags.writeable:
        return array
    memory: Any = (ctypes.c_char * array.nbytes).from_address(array.ctypes.data)
    return np.frombuffer(memory, array.dtype).reshape(array.shape) if array.size else np.empty_like(array)


class Task:
    """A block function compiled once for each float type and called by its address.

    `kinds` declares the arguments: i int64, d float64, b boolean, e the element type, p the address of such
    elements; e[:] or i[:,:] for C-ordered arrays.

    In compiled code, ``a_task.call(address, *arguments)`` calls it, with ``address`` an integer that Python
    got from ``a_task.address(dtype)`` and handed down. Arguments are cast to the declared types, so a literal
    is as good as an int64.
    """

    def __init__(self, function: Any, kinds: str) -> None:
        self._kinds = kinds
        self._dispatcher = _cached(numba.njit(fastmath=FAST, **_CALLED)(function.py_func))
        self._addresses: dict[int, int] = {}
        self.call = call_by_address(kinds)

    def _signature(self, dtype: Any) -> Any:
        return types.void(*_argument_types(self._kinds, numba.from_dtype(dtype)))

    def must_be_compiled(self, dtype: Any) -> bool:
        """Return whether `address` would have to compile, and the result could be kept on disk."""
        if 8 * dtype.itemsize in self._addresses or not isinstance(self._dispatcher._cache, _KernelCache):
            return False
        return not self.is_kept(dtype)

    def is_kept(self, dtype: Any) -> bool:
        """Return whether the code lies on disk."""
        cache = self._dispatcher._cache
        return isinstance(cache, _KernelCache) and cache.holds(self._signature(dtype), self._dispatcher.targetctx)

    def address(self, dtype: Any) -> int:
        """Return where the code for floats of `dtype` lies, compiling or loading it at the first call."""
        bits = 8 * dtype.itemsize
        if bits not in self._addresses:
            signature = self._signature(dtype)
            self._dispatcher.compile(signature)
            result = self._dispatcher.get_compile_result(signature)
            self._addresses[bits] = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
        return self._addresses[bits]


def call_by_address(kinds: str) -> Any:
    """Return what calls, in compiled code, a function compiled by `Task` with the same `kinds` at an address.

    Pointers have no element type in LLVM, so arrays of one float type may stand for those of another, as long as the
    function called gets what it works on from elsewhere.
    """
    names = ["typingctx", "address", *(f"argument{i}" for i in range(len(kinds.split())))]
    position = next(i for i, kind in enumerate(kinds.split()) if kind.startswith(("e[", "p")))

    def call(typingctx: Any, address: Any, *arguments: Any) -> Any:
        wanted = _argument_types(kinds, arguments[position].dtype)
        if any(
            isinstance(want, types.Array) != isinstance(have, types.Array)
            for have, want in zip(arguments, wanted, strict=True)
        ):
            return None

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            convention = context.call_conv
            function_type = convention.get_function_type(types.none, wanted)
            callee = builder.inttoptr(args[0], function_type.as_pointer())
            values = [
                context.cast(builder, value, have, want)
                for value, have, want in zip(args[1:], signature.args[1:], wanted, strict=True)
            ]
            convention.call_function(builder, callee, types.none, wanted, values)
            return context.get_dummy_value()

        return types.void(types.int64, *arguments), generate

    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    call.__signature__ = inspect.Signature([inspect.Parameter(name, positional) for name in names])  # type: ignore[attr-defined]
    return intrinsic(call)


def _argument_types(kinds: str, element: Any) -> tuple[Any, ...]:
    return tuple(_array_or_scalar(kind, element) for kind in kinds.split())


def _array_or_scalar(kind: str, element: Any) -> Any:
    scalars = {
        "i": types.int64, "d": types.float64, "b": types.boolean, "e": element,
        "p": types.CPointer(element),
    }  # fmt: skip
    return scalars[kind] if len(kind) == 1 else types.Array(scalars[kind[0]], kind.count(":"), "C")
