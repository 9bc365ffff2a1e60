"""Many adapters over one base in one set of memory."""

from minilora.serving.bank import BASE, AdapterBank
from minilora.serving.centres import Centres
from minilora.serving.engine import Engine, Event, FullError, Request
from minilora.serving.router import Choice, LossRouter, LossSettings, RuleRouter

__all__ = [
    "BASE",
    "AdapterBank",
    "Centres",
    "Choice",
    "Engine",
    "Event",
    "FullError",
    "LossRouter",
    "LossSettings",
    "Request",
    "RuleRouter",
]
