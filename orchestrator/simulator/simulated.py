"""Point a configuration at the simulator."""

from collections.abc import Mapping, Sequence
from random import Random

from pydantic import SecretStr

from orchestrator.config import OrchestratorConfig
from orchestrator.simulator.directives import parse_directives
from orchestrator.simulator.server import Simulator

SIMULATED_KEY = "simulated-key"


def simulated(
    config: OrchestratorConfig,
    simulator: Simulator,
    *,
    spread_s: tuple[float, float] | None = None,
    directives: Mapping[str, Sequence[str]] | None = None,
) -> OrchestratorConfig:
    """A copy of the configuration in which the simulator serves every deployment.

    Model names stay. `spread_s` gives each deployment a latency of its own between the two,
    the same each time. `directives` names faults and latencies by deployment.
    """
    models = {}
    for name, model in config.models.items():
        asked = tuple((directives or {}).get(name, ()))
        parse_directives(asked)
        if spread_s is not None and parse_directives(asked).latency_s is None:
            low, high = spread_s
            latency_s = Random(f"{simulator.config.seed}/{name}").uniform(low, high)
            asked = (*asked, f"{round(latency_s * 1000)}ms")
        base = simulator.base_url(model.provider, *asked)
        models[name] = model.model_copy(
            update={"api_base": base, "api_key": SecretStr(SIMULATED_KEY)}
        )
    return config.model_copy(update={"models": models})
