"""The figures of bench/coldboot.py as the tables of docs/BENCHMARKS.md."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

_SIDES = {
    "trace": "`boot`, its start traced",
    "other_trace": "`boot`, with the trace of one that starts the same way",
    "no_trace": "`boot --no-prefetch`",
    "alone": "`boot`, traced, no daemon there",
    "warm": "`boot` once more in that home",
    "full_pull": "`pull`, then `boot`",
    "podman": "`podman run`, which pulls from a registry",
    "nbd_squashfs": "squashfs over HTTP ranges (nbdkit, nbdfuse), chroot",
    "stargz": "stargz-snapshotter, the image optimised for the command",
    "everything": "reading every file through a lazy `boot`",
    "full_pull_everything": "`pull`, then reading every file",
}
_AIMS = (
    ("wire_ratio_trace", "bytes over the wire ÷ image, with a trace", "≤", 0.025),
    ("wire_ratio_no_trace", "the same without one", "≤", 0.08),
    ("raw_ratio_no_trace", "raw bytes waited for ÷ image, without one", "≤", 0.08),
    ("trace_vs_full_pull", "full pull and boot ÷ traced boot", "≥", 5),
    ("no_trace_vs_full_pull", "full pull and boot ÷ boot without a trace", "≥", 1.5),
    ("everything_vs_full_pull", "reading everything lazily ÷ pull and read", "≤", 1.05),
    ("trace_vs_podman", "podman ÷ traced boot", "≥", 10),
    ("trace_vs_nbd_squashfs", "squashfs over HTTP ranges ÷ traced boot", ">", 1),
    ("trace_vs_stargz", "stargz-snapshotter ÷ traced boot", ">", 1),
    ("cold_minus_warm_s", "traced boot − warm boot, s", "≤", 0.5),
    ("warm_vs_native", "warm container ÷ plain directory", "≤", 1.05),
)


def markdown(found: Mapping[str, Mapping[str, float]], megabit: int, delay: float, rounds: int) -> str:
    """Tables of each workload's sides, then of the first one's figures against their aims."""
    release = ".".join(os.uname().release.split(".")[:2])
    rate, cores = f"{megabit} Mbit/s, answers {delay:g} ms later", os.cpu_count()
    lines = [f"Linux {release}, {cores} cores, load {os.getloadavg()[0]:.1f}; {rate}; medians of {rounds} round(s)."]
    for name, figures in found.items():
        lines += ["", *_sides(name, figures)]
    lines += ["", *_aims(next(iter(found.values())))]
    return "\n".join(lines)


def _sides(name: str, figures: Mapping[str, float]) -> Iterator[str]:
    image = f"{name}: an image of {figures['image_bytes'] / 1e6:.0f} MB"
    yield f"| {image} | first output, s | of the image over the wire |"
    yield "|---|---|---|"
    for side, words in _SIDES.items():
        if f"{side}_seconds" in figures:
            share = 100 * figures[f"{side}_wire_bytes"] / figures["image_bytes"]
            yield f"| {words} | {figures[f'{side}_seconds']:.2f} | {share:.2f} % |"


def _aims(figures: Mapping[str, float]) -> Iterator[str]:
    yield "| key | | aim | here | |"
    yield "|---|---|---|---|---|"
    for key, words, relation, aim in _AIMS:
        if key in figures:
            verdict = _verdict(figures[key], relation, aim)
            yield f"| `{key}` | {words} | {relation} {aim:g} | {figures[key]:g} | {verdict} |"


def _verdict(figure: float, relation: str, aim: float) -> str:
    is_met = {"≤": figure <= aim, "≥": figure >= aim, ">": figure > aim}[relation]
    return "met" if is_met else "**missed**"
