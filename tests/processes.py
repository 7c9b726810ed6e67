"""Processes that tests start: their environment, and an address where several of them meet."""

import os
import re
import socket
from pathlib import Path

CACHE = Path(__file__).parent.parent / ".cache" / "jax"


def environment(devices: int = 1, **more: str) -> dict[str, str]:
    """That of this process on `devices` simulated devices, with its flags of XLA and the programs that it has compiled."""
    flags = re.sub(r"(device_count=)\d+", rf"\g<1>{devices}", os.environ["XLA_FLAGS"])
    own = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags,
        "JAX_DEBUG_NANS": "1",  # nothing is donated then, here as there: one program for both
        "JAX_COMPILATION_CACHE_DIR": str(CACHE),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return os.environ | own | more


def free_address() -> str:
    """HOST:PORT on this machine at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
