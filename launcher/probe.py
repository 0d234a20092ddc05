"""Does the visible card work? `python -m launcher.probe`: 16 MiB are written and read back, by the driver alone."""

from __future__ import annotations

import ctypes
import sys

SIZE = 16 << 20


class _Driver:
    """The few calls of libcuda that are needed; every one that fails raises with the driver's words."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")

    def __call__(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(code, ctypes.byref(text))
            raise OSError(code, f"{name}: {(text.value or b'unknown').decode()}")


def probe() -> None:
    """Raises: OSError with the driver's words."""
    cuda = _Driver()
    device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    back = (ctypes.c_ubyte * SIZE)()
    cuda("cuInit", 0)
    cuda("cuDeviceGet", ctypes.byref(device), 0)
    cuda("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    cuda("cuCtxSetCurrent", context)
    cuda("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(SIZE))
    cuda("cuMemsetD8_v2", memory, ctypes.c_ubyte(0xA5), ctypes.c_size_t(SIZE))
    cuda("cuMemcpyDtoH_v2", back, memory, ctypes.c_size_t(SIZE))
    cuda("cuMemFree_v2", memory)
    cuda("cuDevicePrimaryCtxRelease_v2", device)
    if bytes(back) != b"\xa5" * SIZE:
        raise OSError(0, "memory reads back other bytes than were written")


if __name__ == "__main__":
    try:
        probe()
    except OSError as failure:
        sys.exit(f"{failure.strerror or failure}")
