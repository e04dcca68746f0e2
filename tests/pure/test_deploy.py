"""Texts for schedulers: bash and YAML read them, they hold what the plan needs, and unlike nodes are refused."""

import json
import shutil
import subprocess
from dataclasses import replace

import pytest
import yaml
from plan_samples import uniform

from nebula.cluster.schema import load_cluster
from nebula.deploy.allocation import job_name
from nebula.deploy.paddlejob import manifest
from nebula.deploy.slurm import sbatch_script
from nebula.errors import BadInput
from nebula.plan.files import loads
from nebula.plan.values import Job, MadeFrom, RankPlace

BY_HAND = MadeFrom(model="m", model_hash="", cluster="", cluster_hash="")
TWO_NODES = uniform(data=2, tensor=4, made_from=BY_HAND)
ONE_NODE = uniform(tensor=4, made_from=BY_HAND)


def cluster(device="A100-80GB-SXM", **own):
    node = {"name": "n", "count": 2, "device": device, "devices_per_node": 4}
    links = {"intra": {"kind": "nvlink", "bandwidth": "300GB/s"}, "nic": {"bandwidth": "200Gb/s"}}
    return load_cluster({"name": "c", "nodes": [{**node, **links}], **own})


def directives(script):
    return dict(line[8:].partition("=")[::2] for line in script.splitlines() if line.startswith("#SBATCH "))


def run_with_stubs(script, tmp_path, node):
    """The words that the script gives to Python on a node, with Slurm's commands replaced by shell functions."""
    stubs = tmp_path / "bin"
    stubs.mkdir(exist_ok=True)
    for name, body in {
        "scontrol": 'printf "%s\\n" one two',
        "hostname": 'echo "10.0.0.$((SLURM_NODEID + 1)) fe80::1"',
        "srun": 'while [[ $1 == --* ]]; do [[ $1 == *=one ]] && export SLURM_NODEID=0; shift; done; exec "$@"',
        "python": 'printf "%s\\n" "NEBULA_PLAN=$NEBULA_PLAN" "$@"',
    }.items():  # fmt: skip
        (stubs / name).write_text(f"#!/bin/bash\n{body}\n")
        (stubs / name).chmod(0o755)
    env = {"PATH": f"{stubs}:/usr/bin:/bin", "SLURM_NODEID": str(node), "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "x"}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("plan", [ONE_NODE, TWO_NODES], ids=["one node", "two nodes"])
def test_bash_reads_the_script(plan):
    script = sbatch_script(plan, "plan of mine.json", "train.py", ["--name", "it's"], time_limit="1-00:00:00")
    assert script.startswith("#!/bin/bash\n")
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False).stderr == ""
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-"], input=script, text=True, check=True)
    asked = directives(script)
    assert asked["--nodes"] == str(plan.world_size // 4)
    assert (asked["--gres"], asked["--ntasks-per-node"], asked["--time"]) == ("gpu:4", "1", "1-00:00:00")


def test_every_node_starts_its_launcher(tmp_path):
    script = sbatch_script(TWO_NODES, "plan of mine.json", "train.py", ["--name", "it's"])
    for node in (0, 1):
        words = run_with_stubs(script, tmp_path, node)
        assert words == [
            "NEBULA_PLAN=plan of mine.json",
            *("-m", "paddle.distributed.launch", "--master", "10.0.0.1:8975", "--host", f"10.0.0.{node + 1}"),
            *("--nnodes", "2", "--rank", str(node), "--devices", "0,1,2,3", "--log_dir", "log/7"),
            *("train.py", "--name", "it's"),
        ]


def test_one_node_needs_no_rendezvous(tmp_path):
    words = run_with_stubs(sbatch_script(ONE_NODE, "plan.json", "train.py"), tmp_path, 0)
    assert words[1:] == ["-m", "paddle.distributed.launch", "--devices", "0,1,2,3", "--log_dir", "log/7", "train.py"]


@pytest.mark.parametrize(
    ("device", "gres", "launcher", "resource"),
    [
        ("A100-80GB-SXM", "gpu:4", "--devices 0,1,2,3", "nvidia.com/gpu"),
        ("Ascend-910B", "npu:4", "--devices 0,1,2,3", "huawei.com/Ascend910"),
        ("Kunlun-P800", "xpu:4", "--devices 0,1,2,3", "kunlunxin.com/xpu"),
        ("cpu", None, "--nproc_per_node 4", "cpu"),
    ],
)
def test_the_kind_of_device_decides_what_is_asked_for(device, gres, launcher, resource):
    script = sbatch_script(TWO_NODES, "plan.json", "train.py", cluster=cluster(device))
    assert directives(script).get("--gres") == gres
    assert launcher in script
    _, job = yaml.safe_load_all(manifest(TWO_NODES, "plan.json", "train.py", cluster=cluster(device)))
    container = job["spec"]["worker"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"] == {resource: 4}
    assert launcher in container["args"][0]


@pytest.mark.parametrize("plan", [ONE_NODE, TWO_NODES], ids=["one node", "two nodes"])
def test_the_manifest_is_yaml_with_the_plan_inside(plan):
    config, job = yaml.safe_load_all(manifest(plan, "plan.json", "train.py", ["--steps", "3"], image="mine:1"))
    assert loads(config["data"]["plan.json"], "inside") == plan
    assert (job["apiVersion"], job["kind"]) == ("batch.paddlepaddle.org/v1", "PaddleJob")
    assert config["metadata"]["name"] != job["metadata"]["name"]
    worker = job["spec"]["worker"]
    assert worker["replicas"] == plan.world_size // 4
    pod = worker["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "mine:1"
    command = container["args"][0]
    assert subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False).stderr == ""
    assert command.endswith("--log_dir log train.py --steps 3")
    assert ("--master" in command) == (plan is TWO_NODES)
    assert {v["name"] for v in pod["volumes"]} == {m["name"] for m in container["volumeMounts"]}
    mounted = next(m["mountPath"] for m in container["volumeMounts"] if m["name"] == "plan")
    assert container["env"] == [{"name": "NEBULA_PLAN", "value": f"{mounted}/plan.json"}]
    assert json.loads(config["data"]["plan.json"])["format"].startswith("nebula-plan/")


NASTY = "x\nrm -rf /\ry: \x85z: \u2028{{ 7 * 7 }} `id` $(id)"


def test_a_name_cannot_leave_its_comment(tmp_path):
    odd = uniform(tensor=4, made_from=MadeFrom(model=NASTY, model_hash="", cluster="", cluster_hash=""))
    script, text = sbatch_script(odd, NASTY, NASTY, [NASTY]), manifest(odd, NASTY, "t.py")
    clean = sbatch_script(ONE_NODE, "plan.json", "train.py").splitlines()
    assert script[: script.index("#SBATCH")].count("\n") == 3
    assert directives(script).keys() == directives("\n".join(clean)).keys()
    assert run_with_stubs(script, tmp_path, 0)[-1] == NASTY.splitlines()[-1]
    assert len(list(yaml.safe_load_all(text))) == 2
    assert text.splitlines()[0].startswith("# x rm -rf / y: z: {{ 7 * 7 }} `id` $(id) on 4 ranks")


def test_words_that_would_leave_their_line_are_refused():
    for words in ({"script": "a\nb"}, {"script": "t.py", "args": ["\u2028"]}, {"script": "t.py", "image": "a\r"}):
        with pytest.raises(BadInput, match="one line of printable text"):
            manifest(ONE_NODE, "plan.json", **words)
    for limit in ("1 day", "1\nrm", "--", "1-1-1", "1:2:3:4"):
        with pytest.raises(BadInput, match="write it as Slurm does"):
            sbatch_script(ONE_NODE, "plan.json", "t.py", time_limit=limit)
    for limit in ("", "90", "90:30", "1-12", "1-12:30", "1-00:00:00"):
        assert sbatch_script(ONE_NODE, "plan.json", "t.py", time_limit=limit)


def test_an_illegal_plan_reaches_no_scheduler():
    broken = uniform(tensor=4, micro_batches=3, job=Job(global_batch=4))
    stage = replace(ONE_NODE.stages[0], recompute="full\nrm -rf /")
    for plan in (broken, replace(ONE_NODE, stages=(stage,))):
        for make in (sbatch_script, manifest):
            with pytest.raises(BadInput, match="the plan is not legal: "):
                make(plan, "plan.json", "t.py")


def test_a_plan_for_another_cluster_or_kind_is_refused():
    made = MadeFrom(model="m", model_hash="", cluster="other", cluster_hash="0" * 12)
    for make in (sbatch_script, manifest):
        with pytest.raises(BadInput, match="the plan was made for cluster other"):
            make(uniform(tensor=4, made_from=made), "plan.json", "t.py", cluster=cluster())
        with pytest.raises(BadInput, match="'tpu'; did you mean 'xpu'"):
            make(ONE_NODE, "plan.json", "t.py", kind="tpu")


def test_names_fit_kubernetes():
    plan = uniform(made_from=MadeFrom(model="ERNIE 3.0 (Titan) " * 5, model_hash="", cluster="", cluster_hash=""))
    name = job_name(plan)
    assert len(name) <= 40
    assert name.replace("-", "").isalnum()
    assert not name.endswith("-")
    assert job_name(uniform(made_from=MadeFrom(model="", model_hash="", cluster="", cluster_hash=""))) == "nebula"


@pytest.mark.parametrize(
    ("places", "sentence"),
    [
        ([("n/0", 0), ("n/0", 1), ("n/0", 2), ("n/1", 0)], "3 ranks on node n/0 and 1 on n/1"),
        ([("n/0", 0), ("n/1", 0), ("n/0", 1), ("n/1", 1)], "spreads neighbouring ranks over nodes"),
        ([("n/0", 0), ("n/0", 1), ("m/0", 0), ("m/0", 1)], "spans node groups m and n"),
    ],
)
def test_what_no_scheduler_can_give_is_refused(places, sentence):
    plan = uniform(data=4, ranks=tuple(RankPlace(*place) for place in places))
    for make in (sbatch_script, manifest):
        with pytest.raises(BadInput) as caught:
            make(plan, "plan.json", "train.py")
        assert sentence in str(caught.value)


def test_emulated_devices_need_no_scheduler():
    own = {"devices": {"mine": {"like": "Ascend-910", "emulated": True}}}
    with pytest.raises(BadInput, match=r"emulated devices \(mine\), which need no scheduler"):
        sbatch_script(TWO_NODES, "plan.json", "train.py", cluster=cluster("mine", **own))
