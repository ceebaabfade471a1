"""Memory that is free goes back to the system."""

import ctypes
import resource
import sys

import pytest

from resnet_jax.runtime.garbage import give_back


def resident():
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_what_was_freed_is_given_back():
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    pieces = [library.malloc(50_000) for _ in range(2000)]
    for piece in pieces:
        ctypes.memset(piece, 1, 50_000)
    for piece in pieces[:-1]:  # the last keeps the heap from shrinking by itself
        library.free(piece)
    before = resident()
    give_back()
    assert resident() < before - 50e6
    library.free(pieces[-1])
