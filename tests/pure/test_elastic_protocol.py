"""The messages of the control plane: what is checked in is what control.proto says, and versions are told apart."""

from __future__ import annotations

import subprocess
import sys

import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st

from nebula.elastic.protocol import VERSION, misfit, roll_pb2
from nebula.elastic.protocol import control_pb2 as wire
from nebula.elastic.protocol.generate import descriptor


@pytest.mark.parametrize(("index", "module"), enumerate([wire, roll_pb2]))
def test_the_generated_code_is_that_of_the_proto(tmp_path, index, module):
    compiled = descriptor_pb2.FileDescriptorSet.FromString(descriptor(tmp_path / "all.binpb")).file[index]
    checked_in = descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
    for one in (compiled, checked_in):
        one.ClearField("source_code_info")
        for message in one.message_type:
            for field in (*message.field, *(f for nested in message.nested_type for f in nested.field)):
                field.ClearField("json_name")
    assert checked_in == compiled
    assert module.DESCRIPTOR.package == "nebula.elastic.v1"


def test_it_works_beside_paddle():
    """Paddle imports protobuf, too; both get on in one process."""
    code = (
        "import paddle; from nebula.elastic.protocol import control_pb2 as wire;"
        "m = wire.FromAgent(hello=wire.Hello(node='a', ports=[1, 2]));"
        "assert wire.FromAgent.FromString(m.SerializeToString()) == m"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=100)


@given(st.integers(0, 9))
def test_another_version_is_refused_with_what_to_do(protocol):
    told = misfit(protocol, "the agent of a")
    assert (told == "") == (protocol == VERSION)
    if told:
        assert f"speaks version {protocol} of the protocol" in told
        assert told.endswith("the older one is there" if protocol < VERSION else "the older one is here")


def test_fields_have_no_number_twice_and_messages_carry_who_may_speak():
    for name in ("Start", "Stop", "Leave", "Welcome"):
        assert "epoch" in wire.DESCRIPTOR.message_types_by_name[name].fields_by_name
    for name in ("Failed", "Progress", "Stopped", "Finished", "Refused"):
        assert "generation" in wire.DESCRIPTOR.message_types_by_name[name].fields_by_name
