"""The run file's sections `reliability` and `energy`: what they mean, their mistakes, and the file beside a run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from cluster_samples import MIXED
from hypothesis import given
from hypothesis import strategies as st

from nebula.errors import BadInput
from nebula.plan.conditions import FAILURE_SOURCES, POWER_SOURCES, Conditions, PowerUse, Reliability
from nebula.plan.conditions_file import load_conditions, save_conditions
from nebula.plan.conditions_section import KEYS, POWER_KEYS
from nebula.plan.run_file import load_run

RUN = "model: {preset: llama3-8b}\ncluster: mixed.yaml\njob: {global_batch: 8}\n"


@pytest.fixture
def read(tmp_path):
    """The conditions of a run file with this behind its other sections."""
    (tmp_path / "mixed.yaml").write_text(MIXED)

    def conditions(text: str, *overrides: str) -> Conditions:
        (tmp_path / "run.yaml").write_text(RUN + text)
        return load_run(tmp_path / "run.yaml", overrides).conditions

    return conditions


def test_what_is_not_said_is_the_default_with_its_source(read):
    assert read("") == Conditions()


def test_what_is_said_comes_from_the_run_file(read):
    found = read(
        "reliability: {node_mtbf: 300d, restart: 10min, storage: 100GB/s, saves: asynchronous, spares: 2}\n"
        "energy: {pue: 1.25}\n",
        "reliability.lost_nodes=wait",
    )
    given_fields = {"node_mtbf_s", "restart_s", "storage_bytes_per_s", "saves", "spares", "lost_nodes"}
    expected = Reliability(
        node_mtbf_s=300 * 86400.0,
        restart_s=600.0,
        storage_bytes_per_s=1e11,
        saves="asynchronous",
        spares=2,
        lost_nodes="wait",
    )
    assert replace(found.reliability, sources=()) == replace(expected, sources=())
    sources = dict(found.reliability.sources)
    assert {name for name, source in sources.items() if source == "run file"} == given_fields
    assert (found.power.pue, dict(found.power.sources)["pue"]) == (1.25, "run file")


def test_every_figure_has_a_key_and_a_source():
    assert set(KEYS.values()) == set(FAILURE_SOURCES) == set(Reliability.__dataclass_fields__) - {"sources"}
    assert set(POWER_KEYS.values()) == set(POWER_SOURCES) == set(PowerUse.__dataclass_fields__) - {"sources"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "reliability: {restrt: 10min}",
            r"run\.yaml:4:15: unknown key 'restrt' in reliability; did you mean 'restart'",
        ),
        ("reliability: {restart: 10GB}", r"reliability\.restart: '10GB' is not a duration"),
        ("reliability: {storage: 900Gb}", r"reliability\.storage: '900Gb' is not a rate"),
        ("reliability: {failures_per_device_hour: 2}", r"reliability\.failures_per_device_hour must be at most 1"),
        ("reliability: {saves: never}", "one of 'synchronous' or 'asynchronous'"),
        ("reliability: {node_mtbf: 9d, failures_per_device_hour: 1e-5}", "counted by device or by node: delete"),
        ("energy: {pue: 0.9}", r"energy\.pue must be at least 1"),
        ("energy: {idle: 30}", r"energy\.idle must be at most 1"),
    ],
)
def test_a_mistake_is_one_sentence_with_its_place(read, text, sentence):
    with pytest.raises(BadInput, match=sentence):
        read(text + "\n")


@given(st.floats(0, 1), st.floats(1, 10), st.sampled_from(["continue", "wait"]), st.integers(0, 9))
def test_what_is_written_beside_a_run_is_read_back(tmp_path_factory, share, pue, lost, spares):
    conditions = Conditions(
        reliability=Reliability(node_loss_share=share, lost_nodes=lost, spares=spares), power=PowerUse(pue=pue)
    )
    path = tmp_path_factory.getbasetemp() / "conditions.json"
    save_conditions(conditions, path)
    assert load_conditions(path) == conditions


def test_a_run_without_the_file_has_the_defaults_and_a_damaged_one_is_refused(tmp_path):
    path = tmp_path / "conditions.json"
    assert load_conditions(path) == Conditions()
    for wrong in ("{", json.dumps({"reliability": {"spares": "two"}}), json.dumps({"power": {"pue": 0.5}})):
        path.write_text(wrong)
        with pytest.raises(BadInput, match=r"conditions\.json: not the conditions of a run"):
            load_conditions(path)
