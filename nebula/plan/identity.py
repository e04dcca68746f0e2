"""Which decision a plan is: a short hash of what it decides, whatever was predicted or said about it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from nebula.plan.plain import encode
from nebula.plan.values import Plan


def plan_hash(plan: Plan) -> str:
    """12 hex digits; equal for plans with the same stages, ranks, schedule, job, model and cluster."""
    decided = replace(plan, prediction=None, because="", runner_up=None, bound_s=0.0)
    text = json.dumps(encode(decided), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
