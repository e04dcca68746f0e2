"""A matrix of plans over all dimensions of the space trains as one serial process does, as docs/equality.md tells.

`python tests/emulated/test_plan_matrix.py` prints the table of the whole matrix, as the page has it.
"""

import re
import sys
import tempfile
from collections import defaultdict
from itertools import combinations
from pathlib import Path

import plan_matrix
import pytest
import ranks
from equality import LOSS_TOLERANCE, WEIGHT_TOLERANCE, WORKER, compare

from nebula.plan.files import save_plan

PAGE = Path(__file__).parents[2] / "docs" / "equality.md"
SECONDS_A_PLAN = 60


def run(rows, folder):
    """Trains every row, all of one number of ranks in one launch; the differences from serial by name."""
    by_size = defaultdict(list)
    for row in rows:
        save_plan(row.plan, folder / f"@{row.name}.json")
        by_size[row.plan.world_size].append(f"{row.optimizer}|@{row.name}|")
    ranks.run_serial(WORKER, [folder, *(f"{name}|serial|" for name in plan_matrix.TRAINING["optimizer"])])
    for size, cases in sorted(by_size.items()):
        ranks.run_emulated(size, WORKER, [folder, *cases], folder, timeout_s=SECONDS_A_PLAN * len(cases))
    return {row.name: compare(folder, f"{row.optimizer}|@{row.name}|") for row in rows}


def table(rows, found):
    """Lines of the page's table."""
    yield "| | ranks | plan | optimizer | losses | weights |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        words = row.words.replace("|", "\\|")
        size, off = row.plan.world_size, found[row.name]
        yield f"| {row.name} | {size} | {words} | {row.optimizer} | {off.losses:.1e} | {off.weights:.1e} |"


def check(rows, found, capsys):
    with capsys.disabled():
        print("\n" + "\n".join(table(rows, found)))
    # a NaN is above no tolerance, and below none
    near = {n for n, off in found.items() if off.losses <= LOSS_TOLERANCE and off.weights <= WEIGHT_TOLERANCE}
    assert not {n: off for n, off in found.items() if n not in near}


def test_a_dozen_plans_equal_serial(tmp_path, capsys):
    rows = plan_matrix.dozen()
    check(rows, run(rows, tmp_path), capsys)


@pytest.mark.slow
def test_the_whole_matrix_equals_serial(tmp_path, capsys):
    rows = plan_matrix.rows()
    check(rows, run(rows, tmp_path), capsys)


def test_the_matrix_holds_every_pair_of_values_that_any_plan_holds():
    def pairs(plans):
        return {pair for values in plans for pair in combinations(sorted(values.items()), 2)}

    rows = plan_matrix.rows()
    assert len(rows) >= 60
    assert pairs(row.values for row in rows) == pairs(values for values, _ in plan_matrix.every())


def test_the_dozen_holds_every_two_dimensions_used_and_unused():
    def pairs(plans):
        coarse = ({axis: used(values[axis]) for axis, used in plan_matrix.COARSE.items()} for values in plans)
        return {pair for values in coarse for pair in combinations(sorted(values.items()), 2)}

    small = (values for values, plan in plan_matrix.every() if plan.world_size in (2, 4))
    assert pairs(row.values for row in plan_matrix.dozen()) == pairs(small)


def test_the_page_has_the_table_of_the_plans_that_run():
    told = [line.split(" | ")[:4] for line in PAGE.read_text().splitlines() if re.match(r"\| m\d", line)]
    off = defaultdict(lambda: type("Off", (), {"losses": 0.0, "weights": 0.0}))
    rows = [line.split(" | ")[:4] for line in list(table(plan_matrix.rows(), off))[2:]]
    assert told == rows


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        every = plan_matrix.rows()
        sys.stdout.write("\n".join(table(every, run(every, Path(made)))) + "\n")
