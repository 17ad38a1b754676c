"""Names the machine that a benchmark runs on, and says how busy it is."""

import os
from pathlib import Path

TELLING = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
)  # of a processor's flags


def machine() -> str:
    """Such as "AMD EPYC (family 26, model 2), 2 cores, avx2 avx512f, load 1.5"."""
    facts: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    flags = facts.get("flags", "").split()
    return (
        f"{facts.get('model name', 'unknown processor')} (family {facts.get('cpu family', '?')},"
        f" model {facts.get('model', '?')}), {os.cpu_count()} cores, {' '.join(f for f in TELLING if f in flags)},"
        f" load {os.getloadavg()[0]:.1f}"
    )
