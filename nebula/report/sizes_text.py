"""What each size of an elastic job would do, for people."""

from __future__ import annotations

from nebula.elastic.policy.size import Advice
from nebula.units import format_count


def sizes_text(advice: Advice, *, now: int, measured: float) -> str:
    """A table of the sizes, the present one and the advised one marked."""
    rows = ["nodes   tokens/s   worth of a node"]
    for size in advice.sizes:
        marks = [word for word, own in (("now", now), ("advised", advice.nodes)) if size.nodes == own]
        rate = format_count(size.tokens_per_s) if size.tokens_per_s else "no plan"
        worth = f"{size.efficiency:.0%}" if size.tokens_per_s else ""
        rows.append(f"{size.nodes:5}   {rate:>8}   {worth:>15}   {', '.join(marks)}".rstrip())
    told = f"scaled to the {format_count(measured)} tokens/s that are measured" if measured else "as predicted"
    return "\n".join([*rows, f"throughput {told}"])
