"""Spend from a shared ledger until nothing is left: a process that a test may kill at any moment.

    python tests/spender.py LEDGER_URL BILLS SEED

Every bill of its provider is a line in the file BILLS, written before a word of the answer is sent.
"""

import asyncio
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from orchestrator import EnhancedOrchestrator, OrchestratorConfig, RequestConfig
from orchestrator.errors import BudgetExceeded, OrchestratorError
from orchestrator.ledger import Ledger
from tests.spending import Bill, Provider, WatchedLedger, amount_of

CAP_NANOUSD = 4_000_000
AT_ONCE = 20


def configured() -> OrchestratorConfig:
    """One deployment, and one window for everybody."""
    price = {"input_usd": "0.0137", "output_usd": "0.1073"}
    window = {"scope": "global", "every": "month", "money_usd": CAP_NANOUSD / 10**9}
    return OrchestratorConfig.model_validate(
        {
            "models": {"gpt": {"provider": "openai", "model": "gpt", "price": price}},
            "budgets": {"windows": [window], "shrink": []},
            "breaker": {"failures": 10**6, "calls": 10**6},
        }
    )


async def spend(url: str, bills: Path, seed: str) -> None:
    config = configured()
    written = os.open(bills, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def keep(bill: Bill) -> None:
        due = amount_of(bill, config.models["gpt"])
        os.write(written, f"{due.money_nanousd}\n".encode())

    provider = Provider("gpt", config.models["gpt"], seed, told=keep, pause_s=0.01)
    async with (
        WatchedLedger(url) as ledger,
        EnhancedOrchestrator(config, adapters={"gpt": provider}, ledger=ledger) as engine,
    ):
        while await ask_several(engine, ledger):
            pass


async def ask_several(engine: EnhancedOrchestrator, ledger: Ledger) -> bool:
    """Whether there was enough left for one of them."""
    request = RequestConfig(prompt="Why?", model="gpt", max_tokens=100)
    asking = (engine.execute_request(request) for _ in range(AT_ONCE))
    answers = await asyncio.gather(*asking, return_exceptions=True)
    await ledger.drain()
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, OrchestratorError):
            raise answer
    return not all(isinstance(answer, BudgetExceeded) for answer in answers)


if __name__ == "__main__":
    asyncio.run(spend(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
