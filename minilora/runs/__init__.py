"""Runs: `run(plan)` does what a plan says, for a command, a sweep, a chapter or a test."""

from minilora.runs.adapt import AdaptPlan, AdaptResult
from minilora.runs.driver import run
from minilora.runs.folder import RunFolder, RunHeldError
from minilora.runs.plan import Plan, Reporter, Result
from minilora.runs.pretrain import PretrainPlan
from minilora.runs.tour import TourPlan, TourResult

__all__ = [
    "AdaptPlan",
    "AdaptResult",
    "Plan",
    "PretrainPlan",
    "Reporter",
    "Result",
    "RunFolder",
    "RunHeldError",
    "TourPlan",
    "TourResult",
    "run",
]
