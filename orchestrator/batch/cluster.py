"""A batch over several machines: Dask deals its shards, and deals them again when a worker dies.

A shard that is begun again goes on where it was, so a killed worker or client costs no more than
the calls that it had under way.
"""

import asyncio
import ipaddress
import logging
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import starmap
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from adapters.config import ENV_REFERENCE
from orchestrator.batch.answering import SHARED, answerer
from orchestrator.batch.job import Order, Result, Run, Watcher, cores, run_batch
from orchestrator.batch.processes import for_one_of
from orchestrator.batch.shards import Unwatched, divide, portable, run_shard
from orchestrator.batch.sources import InputError, Source, need_file
from orchestrator.batch.work import Tally, added_up, strictest
from orchestrator.clock import SystemClock, new_nonce
from orchestrator.config import OrchestratorConfig, ledger_url
from orchestrator.errors import BatchError, OrchestratorError
from orchestrator.panel import describe

if TYPE_CHECKING:
    from distributed import Client, Event, Future, Worker

SHARDS = 4  # for each worker: the last ones to end leave little to wait for
PERIOD_S = 0.5  # how often a shard tells how far it has come
START_S = 120.0  # how long a cluster may have no worker
INSTALL = "pip install 'llm-orchestrator-gateway[dask]'"
LOCAL = "local"
# What is lost is said once, by us; tracebacks of reconnecting would be said beside it.
NOISY = ("distributed", "distributed.client", "distributed.utils")
WANTED = "write tcp://HOST:PORT or tls://HOST:PORT of a Dask scheduler, local, or local:WORKERS"
_COUNTS = tuple(
    field.name
    for field in fields(Tally)
    if field.name not in {"batches", "breakers", "calls_in_flight", "spent_nanousd", "total"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where shards are answered.

    Attributes:
        address: That of a scheduler; "" where one is started here.
        workers: How many processes are started with it.
    """

    address: str = ""
    workers: int = 1

    @property
    def is_here(self) -> bool:
        """Whether all of it is on this machine."""
        if not self.address:
            return True
        host = urlsplit(self.address).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


def place_of(told: str) -> Place:
    """What an address stands for.

    >>> place_of("local:3").workers
    3
    >>> place_of("tcp://10.0.0.7:8786").is_here
    False

    Raises:
        InputError: it is no address.
    """
    name, _, count = told.partition(":")
    if name == LOCAL and not count:
        return Place(workers=cores())
    if name == LOCAL and count.isdecimal() and int(count):
        return Place(workers=int(count))
    if name in {"tcp", "tls"} and _is_address(told):
        return Place(address=told)
    raise InputError(f"--dask {told!r} is no cluster; {WANTED}")


def _is_address(told: str) -> bool:
    try:
        parts = urlsplit(told)
        return bool(parts.hostname and parts.port)
    except ValueError:
        return False


def fitted(config: OrchestratorConfig, place: Place, *, is_capped: bool) -> OrchestratorConfig:
    """The configuration as it is for the workers of a cluster.

    On other machines no file of this one counts: neither its ledger nor its cache.

    Args:
        config: The configuration.
        place: Where the workers are.
        is_capped: Whether the whole batch may cost so much and no more.

    Raises:
        InputError: money is limited, and nothing counts it for all machines, or a secret would
            go over the network.
    """
    if place.is_here:
        return config
    is_shared = config.ledger is not None and ledger_url(config).startswith(SHARED)
    if not is_shared and (is_capped or config.budgets.windows):
        limit = "--max-cost" if is_capped else "budgets.windows"
        raise InputError(
            f"{limit} cannot be kept by several machines that count in files of their own; set "
            "`ledger: {url: postgresql://...}`, which counts for all of them, or use --dask local"
        )
    written = tuple(_written_secrets(config))
    if written and not place.address.startswith("tls:"):
        raise InputError(
            f"{', '.join(written)} would go to {place.address} unencrypted; write ${{NAME}} and "
            "set the variable where workers run, or use a scheduler at tls://"
        )
    return config.model_copy(update={"cache": None, "ledger": config.ledger if is_shared else None})


def _written_secrets(config: OrchestratorConfig) -> Iterator[str]:
    """What stands in the configuration itself though it is secret, by its place."""
    for name, model in config.models.items():
        key = model.api_key.get_secret_value() if model.api_key else ""
        if key and not ENV_REFERENCE.search(key):
            yield f"models.{name}.api_key"
    for name, part in (("ledger", config.ledger), ("limits", config.limits)):
        url = part.url.get_secret_value() if part is not None and part.url is not None else ""
        password = url.partition("://")[2].rpartition("@")[0].partition(":")[2]
        if password and not ENV_REFERENCE.search(password):
            yield f"{name}.url"


def run_on(order: Order, watcher: Watcher, place: Place) -> Result:
    """Answer every row that has no outcome yet on a cluster, and write the output.

    The output must be at the same path on all machines, and the input.

    Raises:
        InputError: the rows cannot be shared out, or Dask is not installed.
        BatchError: the cluster cannot be reached or is lost; outcomes cannot be written down.
        BatchInUse: another process is at this output.
    """
    check(order.file)
    return run_batch(
        replace(order, output=order.output.absolute()), watcher, partial(Spread, place)
    )


def check(file: Source | None) -> None:
    """Refuse what cannot be shared out before anything is asked.

    Raises:
        InputError: the rows are in no file whose ranges can be read, or Dask is not installed.
    """
    _dask()
    name = "it" if file is None else file.name
    if file is None or file.path is None or file.packing or file.form == "parquet":
        raise InputError(
            f"{name} cannot be shared out among machines: that is done by ranges of its bytes; "
            "write JSONL, CSV, TSV or lines of text into a file that is not compressed"
        )
    need_file(file, "Sharing out")


def _dask() -> Any:
    try:
        import distributed  # noqa: PLC0415 - an extra, loaded where it is used
    except ImportError as error:
        raise InputError(f"--dask needs distributed: {INSTALL}") from error
    return distributed


class Spread:
    """The shards of one batch on the workers of a cluster.

    Attributes:
        tally: How far they have come.
        seen: For every position, whether there is such a row in the input.
        is_complete: Whether every row has an outcome.
    """

    def __init__(self, place: Place, run: Run) -> None:
        self.tally = Tally(spent_nanousd=run.scanned.cost_nanousd, total=run.order.total)
        self.seen = bytearray()
        self.is_complete = False
        self._place = place
        self._start = run
        self._stop = run.stop
        self._name = f"orchestrator-batch-{new_nonce()[:16]}"
        self._latest: dict[int, Tally] = {}
        self._spent_before: dict[int, int] = {}

    async def run(self) -> None:
        """Have all shards answered.

        Raises:
            BatchError: the cluster is lost, or a shard cannot go on.
        """
        try:
            async with _reached(self._place) as client:
                await self._answer(client)
        except OSError as error:
            where = self._place.address or "the local cluster"
            raise BatchError(
                f"{where} cannot be reached: {describe(error)}; what is answered is kept, and the "
                "same command goes on with the rest"
            ) from error
        if self._stop.error is not None:
            raise self._stop.error

    def look(self) -> Tally:
        """How far they have come, as they have told."""
        return self.tally

    async def _answer(self, client: "Client") -> None:
        order = self._start.order
        count = sum((await client.nthreads()).values())
        heading = self._start.heading()
        division = await asyncio.to_thread(divide, order, SHARDS * count, batch=heading.batch)
        self.seen = bytearray(b"\1") * division.index.rows
        self.tally.total = division.index.rows
        if order.max_cost_nanousd is not None:
            spent = self._start.scanned.cost_nanousd + self._start.left_nanousd
            async with answerer(self._start.plan(heading), self._stop.event, spent_nanousd=spent):
                pass  # the ledger is made, and told, before several would
        share = replace(
            portable(order),
            config=for_one_of(order.config, count),
            concurrency=-(-order.concurrency // count),
            max_time_s=None,
            is_fresh=False,
        )
        client.subscribe_topic(self._name, self._hear)
        futures = {
            start: client.submit(
                answer_shard, share, start, end, self._name, key=f"{self._name}-{start}", pure=False
            )
            for start, end in division.ranges
            if start < end
        }
        passing = asyncio.create_task(self._pass_on(client, list(futures.values())))
        try:
            results = await asyncio.gather(*starmap(self._collect, futures.items()))
        finally:
            passing.cancel()
        self.is_complete = all(result.is_complete for result in results)

    async def _collect(self, start: int, future: "Future[Result]") -> Result:
        try:
            result: Result = await future
        except Exception as error:  # noqa: BLE001 - it ends the batch, once all is at rest
            result = Result(tally=Tally(), why="failure", message=_lost(error), is_complete=False)
        else:
            # What it was leaving alone when it ended is not news for hours to come.
            self._count(start, replace(result.tally, breakers={}))
        if result.why == "failure":
            self._stop("failure", result.message, BatchError(result.message))
        elif result.why == "budget":
            self._stop("budget", result.message)
        return result

    async def _pass_on(self, client: "Client", futures: "list[Future[Result]]") -> None:
        """Have no shard ask for what is not wanted any more; without workers nobody waits."""
        await self._stop.event.wait()
        await _event(self._name, client).set()
        while await client.nthreads():
            await SystemClock().sleep(PERIOD_S)
        await client.cancel(futures)

    def _hear(self, told: tuple[float, dict[str, Any]]) -> None:
        self._count(told[1]["start"], Tally(**told[1]["tally"]))

    def _count(self, start: int, tally: Tally) -> None:
        """Add up how far all shards have come."""
        self._latest[start] = tally
        self._spent_before.setdefault(start, tally.spent_nanousd)
        latest = self._latest.values()
        for name in _COUNTS:
            setattr(self.tally, name, sum(getattr(one, name) for one in latest))
        paid = sum(one.spent_nanousd for one in latest) - sum(self._spent_before.values())
        self.tally.spent_nanousd = self._start.scanned.cost_nanousd + paid
        self.tally.breakers = strictest(one.breakers for one in latest)
        self.tally.calls_in_flight = added_up(one.calls_in_flight for one in latest)


def _lost(error: Exception) -> str:
    """What is to be told of a shard that has no result."""
    return (
        f"A shard was lost with the workers that had it ({describe(error)}); what is answered is "
        "kept, and the same command goes on with the rest"
    )


@asynccontextmanager
async def _reached(place: Place) -> AsyncIterator["Client"]:
    """A client of the cluster, once that has a worker.

    Raises:
        BatchError: it has none.
        OSError: nobody is there.
    """
    dask = _dask()
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    async with AsyncExitStack() as stack:
        where: Any = place.address
        if not where:
            with _unheard():
                where = await stack.enter_async_context(
                    dask.LocalCluster(
                        n_workers=place.workers,
                        threads_per_worker=1,
                        host="127.0.0.1",
                        dashboard_address=None,
                        memory_limit=0,
                        silence_logs=logging.CRITICAL,
                        asynchronous=True,
                    )
                )
        client = await stack.enter_async_context(
            dask.Client(where, asynchronous=True, set_as_default=False)
        )
        try:
            await client.wait_for_workers(1, timeout=START_S)
        except TimeoutError as error:
            raise BatchError(
                f"{place.address} has no worker; start some where the input and the output are at "
                f"the same paths as here: dask worker {place.address} --nworkers -1 --nthreads 1"
            ) from error
        yield client


@contextmanager
def _unheard() -> Iterator[None]:
    """Have processes that are started now not hear Ctrl-C: it goes to all of a terminal.

    Whoever started them passes on what it means.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# On a worker.


def answer_shard(order: Order, start: int, end: int, name: str) -> Result:
    """One shard of a batch on a worker of Dask; no error of ours has to travel.

    Args:
        order: What is to be done.
        start: The first byte.
        end: The first byte that is not meant.
        name: What its end and its progress are called.
    """
    dask = _dask()
    worker: Worker = dask.get_worker()
    wanted = _Wanted(worker, worker.get_current_task(), _event(name, dask.get_client()))
    try:
        return run_shard(
            order, start, end, watcher=_Telling(worker, name, start), is_over=wanted.is_over
        )
    except OrchestratorError as error:
        return Result(tally=Tally(), why="failure", message=describe(error), is_complete=False)


def _event(name: str, client: "Client") -> "Event":
    event: Event = _dask().Event(name, client=client)
    return event


class _Wanted:
    """Whether anybody waits for a shard: its client may have ended, or have had enough."""

    def __init__(self, worker: "Worker", key: Any, ended: "Event") -> None:
        self._worker = worker
        self._key = key
        self._ended = ended

    def is_over(self) -> bool:
        task = self._worker.state.tasks.get(self._key)
        if task is None or task.state == "cancelled":
            return True
        try:
            return bool(self._ended.is_set())
        except OSError:  # the scheduler is gone, and nobody could be told
            return True


class _Telling(Unwatched):
    """Tells the client how far a shard has come."""

    period_s = PERIOD_S

    def __init__(self, worker: "Worker", name: str, start: int) -> None:
        self._worker = worker
        self._name = name
        self._start = start

    def show(self, tally: Tally) -> None:
        self._worker.log_event(self._name, {"start": self._start, "tally": asdict(tally)})
