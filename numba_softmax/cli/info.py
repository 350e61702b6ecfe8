"""``numba-softmax info``: the hardware and software to compute with. A fact that cannot be found is None."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba

from .. import __version__
from ..backends import disk
from ..backends.cpu import threads

_FEATURES = (
    "sse2", "sse4.2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512bf16", "avx512fp16",
    "neon", "fullfp16", "bf16", "sve", "sve2", "altivec", "vsx", "v",
)  # fmt: skip
_WIDTHS = (("avx512f", 512), ("avx", 256), ("sse2", 128), ("neon", 128), ("vsx", 128), ("altivec", 128))


def command(arguments: argparse.Namespace) -> int:
    """Print it all."""
    facts = gathered()
    if arguments.json:
        print(json.dumps(facts, indent=2))
        return 0
    cpu, kernels = facts["cpu"], facts["cache"]
    print("versions       " + ", ".join(f"{name} {version}" for name, version in facts["versions"].items()))
    print(f"cpu            {cpu['name']} ({cpu['llvm_name']}), {cpu['cores']} cores")
    print(f"vectors        {_shown(cpu['vector_bits'])} bits; {' '.join(cpu['features']) or 'features unknown'}")
    print(f"threads        {_shown(facts['threads']['count'])}, layer {_shown(facts['threads']['layer'])}")
    print(
        f"kernel cache   {_shown(kernels['folder'])}: {kernels['kernels']} kernels, "
        f"{kernels['bytes'] / 1e6:.1f} of at most {kernels['limit'] / 1e6:.1f} MB"
    )
    print("cuda           " + ("\n" + " " * 15).join(_cuda_in_lines(facts["cuda"])))
    return 0


def gathered() -> dict[str, Any]:
    """All facts, in a form that JSON can hold."""
    return {"versions": versions(), "cpu": cpu(), "threads": _threads(), "cache": _cache(), "cuda": _cuda()}


def in_one_line(facts: dict[str, Any]) -> str:
    """The machine and the versions, as a heading for tables."""
    names = ("numba_softmax", "numba", "numpy", "scipy", "torch")
    found = ", ".join(f"{name} {facts['versions'][name]}" for name in names if name in facts["versions"])
    date = facts.get("date", "")[:10]
    return "; ".join(
        filter(None, (f"{facts['cpu']['name']}, {_shown(facts['threads']['count'])} threads", found, date))
    )


def versions() -> dict[str, str]:
    """The versions of the package and of its dependencies."""
    found = {"numba_softmax": __version__, "python": platform.python_version()}
    for name in ("numpy", "numba", "llvmlite"):
        found[name] = _attempt(partial(importlib.metadata.version, name)) or "unknown"
    return found


def cpu() -> dict[str, Any]:
    """The CPU: its names, cores that this process may use, and vectors."""
    features = _attempt(llvmlite.binding.get_host_cpu_features) or {}
    affinity: Callable[[int], Any] | None = getattr(os, "sched_getaffinity", None)
    return {
        "name": _attempt(_name_in_cpuinfo) or platform.processor() or platform.machine() or "unknown",
        "llvm_name": _attempt(llvmlite.binding.get_host_cpu_name) or "unknown",
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "vector_bits": next((bits for feature, bits in _WIDTHS if features.get(feature)), None),
        "features": [feature for feature in _FEATURES if features.get(feature)],
    }


def _name_in_cpuinfo() -> str | None:
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "cpu model"):
            return value.strip()
    return None


def _threads() -> dict[str, Any]:
    return {"count": _attempt(numba.get_num_threads), "layer": _attempt(threads.layer)}


def _cache() -> dict[str, Any]:
    folder = _attempt(lambda: disk.cache_folder().absolute())
    files = _attempt(disk.kept) or []
    return {
        "folder": folder and str(folder),
        "kernels": len(files),
        "bytes": sum(file.bytes for file in files),
        "limit": disk.LIMIT,
    }


def _cuda() -> dict[str, Any]:
    """The GPUs, and the reason if they cannot be used."""
    found = {"numba_cuda": _attempt(lambda: importlib.metadata.version("numba-cuda")), "driver": None, "devices": []}
    problems = []
    for gather in (_check_compiler, partial(_add_devices, found)):
        try:
            gather()
        except Exception as problem:
            problems.append(str(problem))
    missing = problems[0] if problems else None
    return {**found, "usable": missing is None, "missing": missing}


def _check_compiler() -> None:
    from ..backends.cuda import driver, kernels

    kernels.check_compiler()
    driver.assembler_version()


def _add_devices(found: dict[str, Any]) -> None:
    from ..backends.cuda import driver

    found["driver"] = ".".join(map(str, driver.version()))
    found["devices"] = [dataclasses.asdict(driver.device(ordinal)) for ordinal in range(driver.count())]


def _cuda_in_lines(facts: dict[str, Any]) -> list[str]:
    lines = [] if facts["usable"] else [f"not usable: {facts['missing']}"]
    if facts["driver"]:
        lines.append(f"numba-cuda {_shown(facts['numba_cuda'])}, driver for CUDA {facts['driver']}")
    for device in facts["devices"]:
        major, minor = device["capability"]
        lines.append(
            f"GPU {device['ordinal']}: {device['name']}, capability {major}.{minor}, "
            f"{device['processors']} multiprocessors, {device['memory'] / 1e9:.1f} GB"
        )
    return lines


def _attempt(function: Callable[[], Any]) -> Any:
    """The function's result, or None if it fails: no fact is worth a failure."""
    try:
        return function()
    except Exception:
        return None


def _shown(value: Any) -> str:
    return "unknown" if value is None else str(value)
