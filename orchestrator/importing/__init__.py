"""Turn another system's configuration file into ours, and tell of everything that has no place.

Nothing of the file is dropped in silence: what is not taken over is a note, and a comment in the
result beside what it belonged to. No key is copied: a variable of the environment takes its place.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from orchestrator.config import parse_config
from orchestrator.errors import ConfigError
from orchestrator.importing import older, proxy
from orchestrator.importing.draft import Draft, Note
from orchestrator.importing.reading import Reading
from orchestrator.yaml_source import ListNode, MappingNode, Problem, YamlSource, read_yaml

Kind = Literal["litellm", "older"]

# How each kind of file becomes a draft of ours.
KINDS: Mapping[Kind, Callable[[Reading, Draft], None]] = {
    "litellm": proxy.translate,
    "older": older.translate,
}
WANTED = (
    "wanted is a litellm proxy config.yaml, which has the key 'model_list', or an older"
    " {name: {provider, api_key, parameters}}"
)


@dataclass(frozen=True, slots=True)
class Imported:
    """A configuration of ours, made from another system's.

    Attributes:
        kind: What the file was.
        text: The YAML, which `load_config` takes.
        notes: What has changed on the way or has no equivalent, in the order of the file.
        variables: The variables of the environment to set, and the deployments each is for.
    """

    kind: Kind
    text: str
    notes: tuple[Note, ...]
    variables: Mapping[str, tuple[str, ...]]


def import_config(text: str, name: str = "<string>") -> Imported:
    """Turn the text of a file into a configuration of ours.

    Args:
        text: YAML or JSON.
        name: What messages call the file.

    Raises:
        ConfigError: it cannot be read, is of neither kind, or has no model that can be called.

    >>> made = import_config("gpt: {provider: chatgpt, parameters: {model: gpt-5-mini}}")
    >>> print(made.text[made.text.index("models:") :], end="")
    models:
      gpt:
        provider: openai
        model: gpt-5-mini
    """
    source = read_yaml(text, name)
    if source.problems:
        raise ConfigError(source.lines(source.problems))
    kind = _kind(source)
    reading, draft = Reading(source), Draft(source)
    KINDS[kind](reading, draft)
    for loc in reading.left():
        draft.left_out(loc)
    if not draft.models:
        raise ConfigError(_nothing_left(source, draft))
    result = draft.render(kind)
    parse_config(result, "<the result>")
    return Imported(kind, result, draft.in_order(), draft.variables)


def _kind(source: YamlSource) -> Kind:
    """What kind of file this is.

    Raises:
        ConfigError: it is none that can be imported.
    """
    root = source.root
    if not isinstance(root, MappingNode):
        found = "a list" if isinstance(root, ListNode) else "a single value"
        raise ConfigError(source.lines([Problem(root.at, f"The file is {found}; {WANTED}")]))
    if isinstance(source.find(("model_list",)), ListNode):
        return "litellm"
    if older.is_ours(source):
        message = (
            "The file is in the orchestrator's own form already; `orchestrator check` checks it"
        )
        raise ConfigError(source.lines([Problem(root.at, message)]))
    if older.fits(source):
        return "older"
    keys = ", ".join(source.quote_key(key) for key in list(root.entries)[:8]) or "none"
    more = ", ..." if len(root.entries) > 8 else ""
    message = f"The file has the keys {keys}{more}; {WANTED}"
    raise ConfigError(source.lines([Problem(root.at, message)]))


def _nothing_left(source: YamlSource, draft: Draft) -> list[str]:
    """Why no model is left, as problems of the file."""
    told = [Problem(note.at, note.message) for note in draft.in_order()]
    return source.lines([Problem(0, "No model of this file can be called from here"), *told])
