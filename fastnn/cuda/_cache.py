"""Compiled kernels on disk: a whole step takes some 20 s to compile, which each process would pay again.

Numba keeps CUDA kernels with ``cache=True``, which does not fit ours: it looks for changes in the one file that a
kernel stands in, and it tells kernels made by one function apart by pickles of what they enclose, where a compiled
function pickles otherwise in each process. So here, as for the CPU (`kernels/_jit.py`), the key has a hash over all
sources that a kernel may be made of, a name for what tells it apart from its siblings, and the versions of what
compiles it; Numba adds the device's compute capability and the types of the arguments.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import pathlib
import sys
import warnings
from typing import Any

from fastnn.kernels._jit import add_sources, own_files

COMPILERS = (
    "numba", "llvmlite", "numba-cuda", "nvidia-cuda-nvcc-cu12", "nvidia-cuda-nvcc", "nvidia-nvvm",
    "nvidia-nvjitlink-cu12", "nvidia-nvjitlink",
)  # fmt: skip
"""Packages whose version is part of the key, where they are installed."""

OPTIONS = ("debug", "lineinfo", "opt", "fastmath", "device")
"""Of the compiler: the environment may set some of them."""


@functools.cache
def stamp() -> str:
    """Return a hash over the sources of all kernels, the CPU's too, whose formulas run on the device, and compilers."""
    digest = hashlib.sha256()
    for package in ("fastnn.kernels", "fastnn.cuda"):
        add_sources(digest, package)
    for name in COMPILERS:
        try:
            digest.update(f"{name} {importlib.metadata.version(name)}\n".encode())
        except importlib.metadata.PackageNotFoundError:
            continue
    return digest.hexdigest()


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


@functools.cache
def _kind(base: Any) -> Any:
    """Return the cache of kernels, a subclass of Numba's."""
    files = own_files(sys.modules[base.__mro__[1].__module__].IndexDataCacheFile)

    class KernelCache(base):
        """Numba's cache of CUDA kernels with a key of our own; a full or broken disk never stops a call."""

        def __init__(self, py_func: Any, variant: str) -> None:
            super().__init__(py_func)
            # as long as a file's name may be, whatever the variant
            name = hashlib.sha256(variant.encode()).hexdigest()[:16]
            own = hashlib.sha256(pathlib.Path(py_func.__code__.co_filename).read_bytes()).hexdigest()
            self._cache_file = files(
                cache_path=self._cache_path,
                filename_base=f"{self._impl.filename_base}-{name}",
                source_stamp=f"{stamp()} {own}",
            )

        def _index_key(self, sig: Any, codegen: Any) -> Any:
            return sig, codegen.magic_tuple(), getattr(self, "_launch_config_key", None)

        def load_overload(self, sig: Any, target_context: Any) -> Any:
            try:
                return super().load_overload(sig, target_context)
            except Exception as error:  # whatever a damaged file leads to: the code is compiled again
                _warn_once(f"fastnn: the cache of CUDA kernels in {self._cache_path} cannot be read ({error})")
                return None

        def save_overload(self, sig: Any, data: Any) -> None:
            try:
                super().save_overload(sig, data)
            except Exception as error:  # a full disk, or a kernel that cannot be pickled
                _warn_once(f"fastnn: the cache of CUDA kernels in {self._cache_path} cannot be written ({error})")

    return KernelCache


def kept(dispatcher: Any, base: Any, variant: str) -> Any:
    """Return a kernel that is kept on disk where there is a writable directory.

    Parameters
    ----------
    dispatcher : compiled kernel
    base : class
        Numba's cache of CUDA kernels.
    variant : str
        What tells the kernel apart from others of the same function's; functions that enclose something without a name
        for it are not kept.
    """
    if variant or not dispatcher.py_func.__closure__:
        try:
            options = {name: dispatcher.targetoptions.get(name) for name in OPTIONS}
            dispatcher._cache = _kind(base)(dispatcher.py_func, f"{variant} {options}")
        except (RuntimeError, OSError):  # nowhere to write, or no file that the kernel stands in
            _warn_once(
                "fastnn: no writable directory for compiled CUDA kernels, so each process compiles them again; "
                "set NUMBA_CACHE_DIR to a writable directory"
            )
    return dispatcher
