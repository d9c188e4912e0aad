"""Where a deployment's key comes from and whether it is there. Never the key itself."""

from dataclasses import dataclass

from adapters import ModelConfig, create_adapter
from adapters.config import ENV_REFERENCE, first_set


@dataclass(frozen=True, slots=True)
class Key:
    """`source` is a variable's name, or words for people."""

    source: str
    present: bool
    is_secret: bool = True  # false where the deployment needs no key

    @property
    def line(self) -> str:
        """`OPENAI_API_KEY is set`."""
        if not self.is_secret:
            return "no key needed"
        if not self.source.isidentifier():
            return f"key {self.source}"
        return f"{self.source} is {'set' if self.present else 'not set'}"


def key_of(model: ModelConfig, *, deployment: str = "") -> Key:
    """The key that a call to this deployment would use."""
    adapter = create_adapter(model, deployment=deployment)
    present = adapter.is_available()
    if model.api_key is not None:
        named: list[str] = ENV_REFERENCE.findall(model.api_key.get_secret_value())
        missing = next((name for name in named if not first_set((name,))), None)
        return Key(missing or (named[0] if named else "in the file"), present)
    variables: tuple[str, ...] = getattr(adapter, "key_variables", ())
    found = next((name for name in variables if first_set((name,))), None)
    if present and found is None:
        return Key("none needed", present=True, is_secret=False)
    return Key(found or (variables[0] if variables else "none"), present)
