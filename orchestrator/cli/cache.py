"""`orchestrator cache`: how much is kept of earlier answers, and how to be rid of it."""

import asyncio
import dataclasses
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click

from orchestrator.cache import CacheStats, CompletionCache, default_secret
from orchestrator.cli import options
from orchestrator.cli.notes import note
from orchestrator.cli.text import count, seconds
from orchestrator.clock import SystemClock
from orchestrator.config import CacheConfig, cache_folder, find_config, load_config

T = TypeVar("T")

EPILOG = """\b
Examples:
  orchestrator cache stats
  orchestrator cache stats --json | jq .size_bytes
  orchestrator cache clear --yes

\b
`cache:` in the configuration switches it on: {ttl_s: 3600, size_mb: 1024}. A run passes it over
with `ask --no-cache`, and asks anew with `ask --refresh`.
"""


@click.group(epilog=EPILOG)
def command() -> None:
    """Look into the cache of answers, or empty it.

    A call whose like was answered before is answered from it, at no cost. Only complete answers
    are kept, each for one tenant, one deployment and one request, until their time is over or the
    room is needed.
    """


@command.command("stats")
@options.json_option
@options.config_option
def show_stats(as_json: bool, config_path: Path | None) -> None:
    """Say how many answers are kept, where, for how long and in how much room."""
    cache = _Cache(config_path)
    stats = cache.stats()
    if as_json:
        click.echo(json.dumps({"enabled": cache.is_on, **_as_object(stats)}, indent=2))
        return
    click.echo(f"folder  {stats.folder}")
    click.echo(f"kept    {count(stats.answers, 'answer')}, each for {seconds(stats.ttl_s)}")
    click.echo(f"room    {_megabytes(stats.size_bytes)} of {_megabytes(stats.limit_bytes)}")
    if not cache.is_on:
        note(f"the cache is off: {cache.path} has no `cache:`")


@command.command("clear")
@click.option("--yes", is_flag=True, help="Do not ask.")
@options.json_option
@options.config_option
def clear(yes: bool, as_json: bool, config_path: Path | None) -> None:
    """Remove every answer that is kept. Asks first on a terminal."""
    cache = _Cache(config_path)
    if not yes and sys.stdin.isatty():
        question = f"Remove {count(cache.stats().answers, 'answer')} from {cache.folder}?"
        if not click.confirm(question, err=True):
            return
    removed = cache.clear()
    if as_json:
        click.echo(json.dumps({"removed": removed}))
        return
    click.echo(f"removed {count(removed, 'answer')} from {cache.folder}")


class _Cache:
    """The cache of a configuration. Looking at one that is not there does not make it."""

    def __init__(self, config_path: Path | None) -> None:
        self.path = find_config(config_path)
        config = load_config(self.path)
        self.is_on = config.cache is not None
        self.folder = cache_folder(config)
        self._config = config.cache or CacheConfig()

    def stats(self) -> CacheStats:
        return self._use(CompletionCache.stats, self._nothing())

    def clear(self) -> int:
        return self._use(CompletionCache.clear, 0)

    def _nothing(self) -> CacheStats:
        return CacheStats(
            folder=self.folder.absolute(),
            answers=0,
            size_bytes=0,
            limit_bytes=self._config.size_mb * 2**20,
            ttl_s=self._config.ttl_s,
        )

    def _use(self, job: Callable[[CompletionCache], Awaitable[T]], absent: T) -> T:
        if not self.folder.is_dir():
            return absent
        return asyncio.run(self._run(job))

    async def _run(self, job: Callable[[CompletionCache], Awaitable[T]]) -> T:
        cache = CompletionCache(self.folder, self._config, default_secret(), clock=SystemClock())
        try:
            return await job(cache)
        finally:
            await cache.aclose()


def _as_object(stats: CacheStats) -> dict[str, object]:
    """For a program. What was found and missed is known only to the process that looked."""
    kept = dataclasses.asdict(stats)
    return {name: kept[name] for name in kept if name not in {"hits", "misses"}} | {
        "folder": str(stats.folder)
    }


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.1f} MB"
