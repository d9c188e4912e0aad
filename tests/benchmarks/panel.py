"""Measure what the engine adds to the critical path of a panel.

    python tests/benchmarks/panel.py [--runs 15]

Five members at 100, 200, 300, 400 and 500 ms, then a synthesis of 300 ms: no engine can answer in
less than 800 ms. Prints the median and the best elapsed time over 800 ms. The simulator is a
process of its own, as providers are.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from adapters import LLMProvider, ModelConfig
from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.config import PanelConfig

CRITICAL_S = 0.8
MEMBERS = {
    LLMProvider.OPENAI: "gpt-4.1-mini--100ms",
    LLMProvider.ANTHROPIC: "claude-haiku-4-5--200ms",
    LLMProvider.GOOGLE: "gemini-2.5-flash--300ms",
    LLMProvider.COHERE: "command-a-03-2025--400ms",
    LLMProvider.MISTRAL: "mistral-small-latest--500ms",
}


@contextmanager
def simulator() -> Iterator[dict[str, str]]:
    """A simulator in a process of its own: the base address of every provider."""
    command = [sys.executable, "-m", "orchestrator", "simulate", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().split() for _ in LLMProvider]
        try:
            yield dict(lines)
        finally:
            process.terminate()


def configured(bases: dict[str, str]) -> OrchestratorConfig:
    """The panel, every member on the simulator."""
    models = {
        provider.value: ModelConfig(
            provider=provider,
            model=model,
            api_key="simulated-key",
            api_base=bases[provider],
        )
        for provider, model in MEMBERS.items()
    }
    writer = ModelConfig(
        provider=LLMProvider.OPENAI,
        model="gpt-4.1--300ms",
        api_key="simulated-key",
        api_base=bases[LLMProvider.OPENAI],
    )
    members = tuple(models)
    panel = PanelConfig(members=members, quorum=len(members), synthesizer="writer")
    return OrchestratorConfig(models={**models, "writer": writer}, panels={"five": panel})


async def measure(bases: dict[str, str], runs: int) -> list[float]:
    """Seconds from the request to the whole answer, of each run after two to warm up."""
    elapsed = []
    async with EnhancedOrchestrator(configured(bases)) as orchestrator:
        for number in range(runs + 2):
            request = RequestConfig(prompt="Which river is longest?", model="five", seed=number)
            started = time.perf_counter()
            response = await orchestrator.execute_request(request)
            elapsed.append(time.perf_counter() - started)
            assert response.status == "complete", response.causes
    return elapsed[2:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    with simulator() as bases:
        elapsed = asyncio.run(measure(bases, runs))
    median, best = statistics.median(elapsed), min(elapsed)
    print(f"median {median * 1000:.0f} ms, best {best * 1000:.0f} ms of {len(elapsed)} runs")
    print(f"elapsed / {CRITICAL_S * 1000:.0f} ms: median {median / CRITICAL_S:.3f}, ", end="")
    print(f"best {best / CRITICAL_S:.3f}")


if __name__ == "__main__":
    main()
