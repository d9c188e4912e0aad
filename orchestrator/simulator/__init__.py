"""A provider on the loopback: five wire formats, seeded answers, and faults on demand."""

from orchestrator.simulator.config import LatencyConfig, LimitConfig, SimulatorConfig
from orchestrator.simulator.directives import UnknownDirective, parse_directives
from orchestrator.simulator.faults import FAULTS, Fault
from orchestrator.simulator.request_log import RequestLog, RequestRecord, Tally
from orchestrator.simulator.server import Simulator
from orchestrator.simulator.simulated import SIMULATED_KEY, simulated
from orchestrator.simulator.sockets import closed_port, full_backlog

__all__ = [
    "FAULTS",
    "SIMULATED_KEY",
    "Fault",
    "LatencyConfig",
    "LimitConfig",
    "RequestLog",
    "RequestRecord",
    "Simulator",
    "SimulatorConfig",
    "Tally",
    "UnknownDirective",
    "closed_port",
    "full_backlog",
    "parse_directives",
    "simulated",
]
