"""Prints a graph for a terminal: its runs of equal layers with parameters, FLOPs and bytes, and the totals."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nebula.graph.account import active_parameter_count, parameter_account
from nebula.graph.values import DistributedGraph
from nebula.report.words import name_ranges
from nebula.units import format_bytes, format_count


def graph_table(graph: DistributedGraph) -> RenderableType:
    """The graph as one block of text for a rich console; a row is a run of equal layers."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for heading in ("layers", "block", "parameters", "forward", "backward", "saved", "passed on"):
        words = heading in ("layers", "block")
        table.add_column(heading, justify="left" if words else "right", no_wrap=not words)
    for run in graph.runs:
        block = graph.blocks[run.block]
        each = " each" if run.layers > 1 else ""
        table.add_row(
            name_ranges(graph.layer_names[run.first : run.first + run.layers]),
            block.name,
            format_count(block.parameter_count) + each,
            format_flops(block.forward_flops),
            format_flops(block.backward_flops),
            format_bytes(block.saved_bytes),
            format_bytes(block.output_bytes),
        )
    return Group(
        Text(headline(graph), style="bold"),
        Text(),
        table,
        Text(),
        account_table(graph),
        *_tied(graph),
        *_assumed(graph),
    )


def account_table(graph: DistributedGraph) -> RenderableType:
    """Parameters by group, exact."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    for group, size in parameter_account(graph).items():
        table.add_row(group, f"{size:,}")
    return table


def assumed_kinds(graph: DistributedGraph) -> tuple[str, ...]:
    """Operator kinds without a rule, whose work is taken by bytes alone."""
    return tuple(sorted({op.kind for b in graph.blocks for op in b.operators if op.attribute("assumed")}))


def _tied(graph: DistributedGraph) -> tuple[Text, ...]:
    note = f"the last layer projects with the weights of the embedding, which count once: {graph.tied_elements:,}"
    return (Text(), Text(note)) if graph.tied_elements else ()


def _assumed(graph: DistributedGraph) -> tuple[Text, ...]:
    kinds = assumed_kinds(graph)
    note = f"no rule yet for {', '.join(kinds)}: counted by bytes, as pointwise, keeping inputs and outputs"
    return (Text(), Text(note, style="yellow")) if kinds else ()


def format_flops(flops: float) -> str:
    """A number of operations: `144 MFLOP`, `0 FLOP`."""
    words = format_count(flops)
    return f"{words}FLOP" if not words[-1].isdigit() else f"{words} FLOP"


def headline(graph: DistributedGraph) -> str:
    """The totals in one line; per-row figures hold for the rows that the graph was made with."""
    rows = f"{graph.rows} row{'s' if graph.rows > 1 else ''} of {graph.tokens_per_row:,} tokens"
    work = f"{format_flops(graph.forward_flops)} forward, {format_flops(graph.backward_flops)} backward"
    layers = f"{len(graph.layers)} layers, {len(graph.blocks)} distinct"
    active = active_parameter_count(graph)
    met = f" ({active:,} active per token)" if active < graph.parameter_count else ""
    return f"{graph.name}: {graph.parameter_count:,} parameters{met} in {layers}; {work} for {rows}"


def graph_document(graph: DistributedGraph) -> dict[str, Any]:
    """The folded graph for machines: totals, blocks, runs."""
    return {
        "model": graph.name,
        "parameters": graph.parameter_count,
        "active_parameters": active_parameter_count(graph),
        "tied_parameters": graph.tied_elements,
        "parameter_account": parameter_account(graph),
        "assumed_kinds": assumed_kinds(graph),
        "rows": graph.rows,
        "tokens_per_row": graph.tokens_per_row,
        "forward_flops": graph.forward_flops,
        "backward_flops": graph.backward_flops,
        "blocks": [
            {
                "name": block.name,
                "module": block.module,
                "parameters": block.parameter_count,
                "forward_flops": block.forward_flops,
                "backward_flops": block.backward_flops,
                "saved_bytes": block.saved_bytes,
                "output_bytes": block.output_bytes,
                "operators": [
                    {"name": op.name, "kind": op.kind, "inputs": op.inputs, "outputs": op.outputs}
                    for op in block.operators
                ],
            }
            for block in graph.blocks
        ],
        "runs": [
            {"block": run.block, "first": run.first, "layers": run.layers, "name": graph.layer_names[run.first]}
            for run in graph.runs
        ],
    }
