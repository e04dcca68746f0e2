"""Data parallelism on the plain CPU: launched by us, by hand, with a failing rank, with the wrong number of ranks."""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nebula.cluster.values import Cluster, DeviceType, Link, NodeGroup
from nebula.errors import BadInput, RunFailed
from nebula.launch import launch
from nebula.plan.files import load_plan, save_plan
from nebula.plan.layout import uniform_stages
from nebula.plan.values import Job, MadeFrom, Plan, RankPlace, Sharding

SCRIPT = Path(__file__).parent / "dp_script.py"
CPU = DeviceType(name="cpu", kind="cpu", peak_flops={"float32": 1e11}, memory_bytes=2**33, memory_bytes_per_s=1e10)
LINK = Link(kind="memory", bytes_per_s=1e10, latency_s=1e-5)
HOST = Cluster(
    name="host", groups=(NodeGroup(name="host", count=1, device=CPU, devices_per_node=2, intra=LINK, nic=LINK),)
)


def make_plan(folder, ranks=2, cluster_hash=""):
    plan = Plan(
        stages=uniform_stages(boundaries=(0, 3), data=ranks, tensor=1, sharding=Sharding(), micro_batch_rows=4),
        micro_batches=16 // ranks // 4,
        schedule="1f1b",
        engine="fleet" if ranks > 1 else "serial",
        ranks=tuple(RankPlace("host/0", r) for r in range(ranks)),
        job=Job(global_batch=16),
        made_from=MadeFrom(model="", model_hash="", cluster="elsewhere", cluster_hash=cluster_hash),
    )
    path = folder / "plan.json"
    save_plan(plan, path)
    return path


def plain_environment(**more):
    return {k: v for k, v in os.environ.items() if k not in ("NEBULA_PLAN", "CUSTOM_DEVICE_ROOT")} | more


def start(plan, folder, *args):
    out = io.StringIO()
    code = launch(
        plan,
        SCRIPT,
        [str(folder / "losses"), *args],
        cluster=HOST,
        log_dir=folder / "log",
        env=plain_environment(),
        out=out,
    )
    return code, out.getvalue()


@pytest.fixture(scope="module")
def serial_losses(tmp_path_factory):
    path = tmp_path_factory.mktemp("serial") / "losses"
    subprocess.run([sys.executable, str(SCRIPT), str(path)], check=True, env=plain_environment(), timeout=100)
    return json.loads(path.read_text())


def assert_equal(losses, serial):
    assert serial[-1] < 0.8 * serial[0]
    assert max(abs(a - b) / b for a, b in zip(losses, serial, strict=True)) < 1e-5


def test_launched_ranks_train_like_one(tmp_path, serial_losses):
    code, out = start(make_plan(tmp_path), tmp_path)
    assert code == 0
    assert out == "trained\n"
    assert_equal(json.loads((tmp_path / "losses").read_text()), serial_losses)


def test_same_script_started_by_hand(tmp_path, serial_losses):
    env = plain_environment(NEBULA_PLAN=str(make_plan(tmp_path)))
    words = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", str(tmp_path)]
    subprocess.run(
        [*words, str(SCRIPT), str(tmp_path / "losses")], check=True, env=env, timeout=100, capture_output=True
    )
    assert_equal(json.loads((tmp_path / "losses").read_text()), serial_losses)


@pytest.mark.parametrize(("fault", "words"), [("raise", "the data of step 3 is broken"), ("die", "without a word")])
def test_failing_rank_is_named(tmp_path, fault, words):
    with pytest.raises(RunFailed, match=words) as caught:
        start(make_plan(tmp_path), tmp_path, fault)
    assert "rank 1 failed" in str(caught.value)
    assert "workerlog.1" in str(caught.value)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ("freeze", r"rank 0 trains 0\.weight, rank 1 has it frozen \(stop_gradient\): freeze the same weights"),
        ("build", "rank 1 has built the model with other weights or buffers than rank 0"),
        ("buffer", "rank 1 has built the model with other weights or buffers than rank 0"),
    ],
)
def test_ranks_that_train_different_models_are_refused(tmp_path, odd, words):
    with pytest.raises(RunFailed, match=words):
        start(make_plan(tmp_path), tmp_path, odd)


def test_plan_for_other_number_of_processes_is_refused_once(tmp_path):
    plan = make_plan(tmp_path)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "losses")],
        env=plain_environment(NEBULA_PLAN=str(plan)),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 2
    assert done.stderr.count("places 2 ranks, 1 process was started") == 1
    assert "Traceback" not in done.stderr


def test_plan_of_another_cluster_starts_nothing(tmp_path):
    with pytest.raises(BadInput, match="elsewhere"):
        start(make_plan(tmp_path, cluster_hash="0123456789ab"), tmp_path)
    assert not (tmp_path / "log").exists()


def test_plan_that_no_engine_runs_there_starts_nothing(tmp_path):
    plan = load_plan(make_plan(tmp_path))
    half = dataclasses.replace(plan, job=dataclasses.replace(plan.job, precision="bf16"))
    save_plan(half, tmp_path / "half.json")
    with pytest.raises(BadInput, match=r"cannot run on host: precision bf16: .* on the CPU; set job\.precision=fp32"):
        start(tmp_path / "half.json", tmp_path)
    assert not (tmp_path / "log").exists()


def test_missing_script_and_missing_plan(tmp_path):
    with pytest.raises(BadInput, match=r"nothing\.py"):
        launch(make_plan(tmp_path), tmp_path / "nothing.py", log_dir=tmp_path / "log")
    with pytest.raises(BadInput, match=r"none\.json"):
        launch(tmp_path / "none.json", SCRIPT, log_dir=tmp_path / "log")


def test_without_accelerators_the_cluster_has_to_be_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match=r"no accelerator .* --cluster"):
        launch(make_plan(tmp_path), SCRIPT, log_dir=tmp_path / "log")
    assert not (tmp_path / "log").exists()


def interrupt(process, launcher):
    process.send_signal(signal.SIGINT)


def terminate(process, launcher):
    process.send_signal(signal.SIGTERM)


def hang_up(process, launcher):
    process.send_signal(signal.SIGHUP)


def interrupt_twice(process, launcher):
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)


def kill_the_launcher(process, launcher):
    launcher.kill()


@pytest.mark.parametrize("ending", [interrupt, terminate, hang_up, interrupt_twice, kill_the_launcher])
def test_no_process_is_left(tmp_path, ending):
    plan, log = make_plan(tmp_path), tmp_path / "log"
    code = (
        "from pathlib import Path; from nebula.launch import launch; import sys; sys.path.insert(0, sys.argv[4]);"
        "from test_launch_cpu import HOST;"
        "launch(sys.argv[1], sys.argv[2], [sys.argv[3], 'hang'], cluster=HOST, log_dir=sys.argv[3] + '.log')"
    )
    words = [sys.executable, "-c", code, str(plan), str(SCRIPT), str(log), str(Path(__file__).parent)]
    process = subprocess.Popen(words, env=plain_environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "hanging\n"
    (launcher,) = psutil.Process(process.pid).children()
    family = [launcher, *launcher.children(recursive=True)]
    assert len(family) >= 3
    ending(process, launcher)
    assert process.wait(timeout=60) != 0
    psutil.wait_procs(family, timeout=5)
    assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
