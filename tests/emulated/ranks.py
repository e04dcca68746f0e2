"""Starts a script on several ranks of emulated devices, or alone on the plain CPU."""

import os
import subprocess
import sys
from pathlib import Path

from nebula.emulator import environment
from nebula.emulator.table import EmulatedDevice, Link, uniform_links, write_table
from nebula.launch.command import environment as quiet_environment
from nebula.plan.kinds import told

DEVICE = EmulatedDevice(
    memory_bytes=2**30,
    float32_flops_per_s=1e12,
    bfloat16_flops_per_s=2e12,
    float16_flops_per_s=2e12,
    memory_bytes_per_s=1e11,
    kernel_s=5e-6,
    host_bytes_per_s=1e10,
)
WORKERS = Path(__file__).parent
LINK = Link(bytes_per_s=1e10, latency_s=5e-6)


def base_environment(ranks):
    env = quiet_environment(os.environ, "", ranks=ranks, cores=os.cpu_count() or 1)
    return {key: value for key, value in env.items() if key not in ("NEBULA_PLAN", "CUSTOM_DEVICE_ROOT")}


def run_serial(script, args, *, timeout_s=120):
    done = subprocess.run(
        [sys.executable, str(script), *map(str, args)],
        env=base_environment(1),
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def run_emulated(ranks, script, args, folder, *, device=DEVICE, links=None, faults=(), kinds=(), timeout_s=240):
    """Runs to the end, on plain CPUs where `kinds` says so; a failure shows the last lines of every rank."""
    links = links or uniform_links(ranks, LINK)
    plain = [rank for rank, kind in enumerate(kinds) if kind == "cpu"]
    table = write_table(folder / f"devices.{ranks}", [device] * ranks, links, patience_s=60, faults=faults, plain=plain)
    logs = folder / f"log.{ranks}"
    launcher = [sys.executable, "-m", "paddle.distributed.launch", "--log_level", "WARNING"]
    launcher += ["--devices", ",".join(map(str, range(ranks))), "--log_dir", str(logs)]
    done = subprocess.run(
        [*launcher, str(script), *map(str, args)],
        env=base_environment(ranks) | environment(table) | told(kinds),
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    tails = "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in sorted(logs.glob("workerlog.*")))
    assert done.returncode == 0, tails
    return logs
