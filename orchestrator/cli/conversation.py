"""A conversation as a value, and what the slash commands make of it. No I/O."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from orchestrator.cli.text import did_you_mean, one_line
from orchestrator.config import OrchestratorConfig, RequestConfig
from orchestrator.errors import InvalidRun, UnknownModel
from orchestrator.resolve import resolve


@dataclass(frozen=True, slots=True)
class Turn:
    """What was asked and what was answered."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Who is talked to and what was said so far."""

    model: str | None = None
    pattern: str | None = None
    system: str | None = None
    max_cost_usd: Decimal | None = None  # of every answer
    turns: tuple[Turn, ...] = ()

    def request(self, prompt: str) -> RequestConfig:
        """The next run: everything said so far, then `prompt`."""
        messages: list[Mapping[str, Any]] = []
        for turn in self.turns:
            messages.append({"role": "user", "content": turn.prompt})
            messages.append({"role": "assistant", "content": turn.answer})
        messages.append({"role": "user", "content": prompt})
        return RequestConfig(
            messages=tuple(messages),
            system=self.system,
            model=self.model,
            pattern=self.pattern,
            max_cost_usd=self.max_cost_usd,
        )

    def after(self, prompt: str, answer: str) -> "Conversation":
        return dataclasses.replace(self, turns=(*self.turns, Turn(prompt, answer)))

    def as_markdown(self) -> str:
        """The conversation as a document."""
        parts = [f"> {self.system}"] if self.system else []
        for turn in self.turns:
            parts += [f"## {one_line(turn.prompt, 100)}", turn.answer.strip()]
            if "\n" in turn.prompt.strip() or len(turn.prompt) > 100:
                parts.insert(-1, turn.prompt.strip())
        return "\n\n".join(parts) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What may be said after `/use` and `/pattern`: names, each with a line about it."""

    config: OrchestratorConfig
    models: Mapping[str, str]
    patterns: Mapping[str, str]

    def objection(self, conversation: Conversation) -> str:
        """Why nobody could answer the next turn of this conversation; empty if somebody can."""
        try:
            resolve(conversation.request("?"), self.config, self.patterns)
        except (UnknownModel, InvalidRun) as error:
            return str(error)
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a slash command leads to."""

    conversation: Conversation
    said: str = ""
    failed: bool = False
    leave: bool = False
    save_as: str | None = None


Command = Callable[[Conversation, Names, str], Step]


def obey(line: str, conversation: Conversation, names: Names) -> Step:
    """Carry out a line that begins with a slash."""
    word, _, argument = line[1:].partition(" ")
    command = COMMANDS.get(word.lower())
    if command is None:
        name = f"/{one_line(word, 64)}"
        said = f"unknown command {name!r}{did_you_mean(name, SLASHED)}; /help lists them"
        return Step(conversation=conversation, failed=True, said=said)
    return command[0](conversation, names, argument.strip())


def listing(rows: Mapping[str, str], chosen: str | None = None) -> str:
    """Names and what they are, one a line; the chosen one is marked."""
    width = max((len(name) for name in rows), default=0)
    return "\n".join(
        f"{'*' if name == chosen else ' '} {name:<{width}}  {line}".rstrip()
        for name, line in rows.items()
    )


def _help(conversation: Conversation, names: Names, argument: str) -> Step:
    rows = {f"/{name}{usage and ' ' + usage}": line for name, (_, usage, line) in COMMANDS.items()}
    return Step(conversation=conversation, said=listing(rows))


def _models(conversation: Conversation, names: Names, argument: str) -> Step:
    return Step(conversation=conversation, said=listing(names.models, conversation.model))


def _use(conversation: Conversation, names: Names, name: str) -> Step:
    if not name:
        return _models(conversation, names, "")
    changed = dataclasses.replace(conversation, model=name)
    return _changed(conversation, changed, names, f"now talking to {name}")


def _pattern(conversation: Conversation, names: Names, name: str) -> Step:
    if not name:
        rows = {"none": "the panel's own", **names.patterns}
        return Step(conversation=conversation, said=listing(rows, conversation.pattern or "none"))
    if name == "none":
        changed = dataclasses.replace(conversation, pattern=None)
        return Step(conversation=changed, said="back to the panel's own pattern")
    changed = dataclasses.replace(conversation, pattern=name)
    return _changed(conversation, changed, names, f"now with the pattern {name}")


def _changed(before: Conversation, after: Conversation, names: Names, said: str) -> Step:
    """A change that is refused where it would lead to nobody."""
    objection = names.objection(after)
    if objection:
        return Step(conversation=before, said=objection, failed=True)
    return Step(conversation=after, said=said)


def _history(conversation: Conversation, names: Names, argument: str) -> Step:
    said = conversation.as_markdown().strip() or "nothing was said yet"
    return Step(conversation=conversation, said=said)


def _clear(conversation: Conversation, names: Names, argument: str) -> Step:
    return Step(
        conversation=dataclasses.replace(conversation, turns=()),
        said=f"forgot {len(conversation.turns)} turns",
    )


def _save(conversation: Conversation, names: Names, path: str) -> Step:
    if not conversation.turns:
        return Step(conversation=conversation, failed=True, said="nothing was said yet")
    return Step(conversation=conversation, save_as=path or "chat.md")


def _quit(conversation: Conversation, names: Names, argument: str) -> Step:
    return Step(conversation=conversation, leave=True)


# name: what it does, its argument, its line in /help
COMMANDS: Mapping[str, tuple[Command, str, str]] = {
    "help": (_help, "", "this list"),
    "models": (_models, "", "the deployments, routes and panels to talk to"),
    "use": (_use, "NAME", "talk to another one from now on; the conversation is kept"),
    "pattern": (_pattern, "NAME", "use another analysis pattern; none is the panel's own"),
    "history": (_history, "", "the conversation so far"),
    "clear": (_clear, "", "forget the conversation so far"),
    "save": (_save, "FILE", "write the conversation to a new Markdown file (chat.md)"),
    "quit": (_quit, "", "leave; so do Ctrl-D and Ctrl-C"),
}
SLASHED: Mapping[str, None] = {f"/{name}": None for name in COMMANDS}
