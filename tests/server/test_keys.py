"""The gateway's keys: found by their id, kept as digests, heeded as soon as the file changes."""

import hmac
import json
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.clock import FakeClock
from orchestrator.errors import KeysError
from orchestrator.server import keys as module
from orchestrator.server.keys import KeyFile, keys_file
from tests.counting import calls_of

Damage = Callable[[Path], object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "keys.json"


@pytest.fixture
def keys(path: Path) -> KeyFile:
    return KeyFile(path)


def test_a_key_that_was_made_is_found_with_its_limits(keys: KeyFile) -> None:
    """What was promised when it was made is what holds."""
    made = keys.create("acme", models=("fast", "*/council"), requests_per_minute=60)

    found = keys.find(made.key)

    assert found == made.record
    assert found is not None
    assert (found.tenant, found.requests_per_minute, found.open_streams) == ("acme", 60, 100)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fast", True),
        ("faster", False),
        ("debate/council", True),
        ("council", False),
        ("FAST", False),
        ("", False),
    ],
)
def test_a_key_may_ask_for_what_its_patterns_name(keys: KeyFile, name: str, expected: bool) -> None:
    """Whole names, in the very letters, or patterns."""
    record = keys.create("acme", models=("fast", "*/council")).record

    assert record.may_ask(name) is expected


def test_a_key_without_patterns_may_ask_for_anything(keys: KeyFile) -> None:
    """A limit is there because somebody has set it."""
    assert keys.create("acme").record.may_ask("whatever")


def test_keys_are_long_and_all_different(keys: KeyFile) -> None:
    """256 random bits, which no digest needs to be salted for."""
    made = [keys.create("acme").key for _ in range(20)]

    assert len(set(made)) == 20
    assert all(len(key.split("-", 2)[2]) >= 43 for key in made)
    assert len(keys.list()) == 20


def test_nothing_that_is_kept_holds_the_key(keys: KeyFile, path: Path) -> None:
    """Neither it nor any eight characters of its secret half stand in a file of the state."""
    secret = keys.create("acme").key.split("-", 2)[2]

    kept = b"".join(one.read_bytes() for one in path.parent.rglob("*") if one.is_file())

    assert not [
        start for start in range(len(secret) - 7) if secret[start : start + 8].encode() in kept
    ]
    assert {one.stat().st_mode & 0o777 for one in path.parent.iterdir()} == {0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_no_file_is_no_key(keys: KeyFile, path: Path) -> None:
    """Looking makes nothing."""
    assert not keys.has_any
    assert keys.list() == []
    assert keys.find("orc-000000000000-x") is None
    assert not path.parent.exists()


def test_the_usual_file_lies_in_the_state_folder(orchestrator_home: Path) -> None:
    """Beside the ledger and the runs."""
    assert keys_file() == orchestrator_home / "keys.json"


def test_a_revoked_key_is_refused_at_once_and_by_others_too(keys: KeyFile, path: Path) -> None:
    """A server that read the file before sees the change without a restart."""
    server, made = KeyFile(path), keys.create("acme")
    assert server.find(made.key)

    revoked = keys.revoke(made.record.id)

    assert revoked.revoked is not None
    assert server.find(made.key) is None
    assert not server.has_any
    assert server.list() == [revoked]


def test_revoking_again_keeps_the_first_time(path: Path) -> None:
    """The record says since when."""
    clock = FakeClock()
    keys = KeyFile(path, clock=clock)
    name = keys.create("acme").record.id
    first = keys.revoke(name)
    clock.advance(60)

    assert keys.revoke(name) == first


def test_a_key_that_was_made_elsewhere_is_known_at_the_next_request(
    keys: KeyFile, path: Path
) -> None:
    """The file is read again whenever it has changed, and only then."""
    server = KeyFile(path)
    first = keys.create("acme")
    assert server.find(first.key)

    second = keys.create("beta")
    found = server.find(second.key)

    assert found is not None
    assert found.tenant == "beta"
    assert server.find(first.key)


def test_an_unchanged_file_is_not_read_again(
    keys: KeyFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request costs a look at the file's size and age."""
    made = keys.create("acme")
    assert keys.find(made.key)

    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("read again"))

    assert keys.find(made.key)


def test_a_file_that_is_gone_lets_nobody_in(keys: KeyFile, path: Path) -> None:
    """Whoever removes the file takes back every key."""
    made = keys.create("acme")
    path.unlink()

    assert keys.find(made.key) is None


@pytest.mark.parametrize(
    "presented",
    [
        None,
        "",
        b"",
        "-",
        "--",
        "orc",
        "orc-",
        "orc--",
        "ключ-äöü-鍵",
        "orc-\ud800-x",
        b"\xff\xfe-\xff-\x00",
        "x" * 2**20,
        "orc-" + "0" * 2**20,
    ],
)
def test_what_is_no_key_is_nobodys(keys: KeyFile, presented: str | bytes | None) -> None:
    """Whatever stands in a header, the answer is no and never an error."""
    keys.create("acme")

    assert keys.find(presented) is None


def test_a_key_is_taken_whole_and_in_no_other_spelling(keys: KeyFile) -> None:
    """One character more, less or other is another key."""
    made = keys.create("acme")
    name, secret = made.record.id, made.key.split("-", 2)[2]
    spellings = (
        made.key[:-1],
        made.key + "x",
        made.key + " ",
        f" {made.key}",
        made.key.upper(),
        f"ORC-{name}-{secret}",
        made.key + "\0",
        made.key + "x" * 300,
        f"orc-{name}-",
        f"orc-{name}-{made.record.sha256}",
        made.record.sha256,
        name,
    )

    assert [found for one in spellings if (found := keys.find(one))] == []
    assert keys.find(made.key.encode())


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[KeyFile, str]:
    """A file with one key in it, and the key."""
    keys = KeyFile(tmp_path_factory.mktemp("state") / "keys.json")
    return keys, keys.create("acme").key


@given(presented=st.text() | st.binary() | st.none())
@example(presented="orc-\ud800-")
def test_no_string_at_all_is_an_error_or_lets_anybody_in(
    kept: tuple[KeyFile, str], presented: str | bytes | None
) -> None:
    """Lone surrogates, NUL, bytes that are no text: nobody's."""
    assert kept[0].find(presented) is None


@given(data=st.data())
def test_no_neighbour_of_a_key_lets_anybody_in(
    kept: tuple[KeyFile, str], data: st.DataObject
) -> None:
    """A key with one character replaced is another key."""
    keys, key = kept
    place = data.draw(st.integers(0, len(key) - 1))
    other = data.draw(st.characters().filter(lambda character: character != key[place]))

    assert keys.find(key[:place] + other + key[place + 1 :]) is None


def test_as_much_is_done_for_a_key_that_nobody_has(keys: KeyFile) -> None:
    """How long a refusal takes tells nobody whether an id exists, or was revoked."""
    known, revoked = keys.create("alice"), keys.create("bob")
    keys.revoke(revoked.record.id)
    other = "A" * (len(known.key) - len("orc-0123456789ab-"))
    refused = {
        "no such id": f"orc-0123456789ab-{other}",
        "another's secret": f"orc-{known.record.id}-{other}",
        "revoked": revoked.key,
        "revoked, another's secret": f"orc-{revoked.record.id}-{other}",
    }
    keys.find(known.key)  # the file is read
    calls = {name: calls_of(partial(keys.find, key)) for name, key in refused.items()}

    assert len(set(calls.values())) == 1, calls


def test_digests_are_compared_in_constant_time_whether_or_not_the_id_is_known(
    keys: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One comparison of 32 bytes with 32 bytes, every time."""
    made, compared, real = keys.create("acme"), [], hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((type(one), len(one), type(other), len(other)))
        return real(one, other)

    monkeypatch.setattr(module.hmac, "compare_digest", compare)
    for presented in (made.key, "orc-000000000000-x", "", None, "ä", "x" * 1000):
        keys.find(presented)

    assert compared == [(bytes, 32, bytes, 32)] * 6


def test_concurrent_creators_lose_nothing(path: Path) -> None:
    """Each reads what the one before has written: none overwrites another's key."""
    made: list[str] = []

    def create(name: str) -> None:
        mine = KeyFile(path)
        made.extend(mine.create(name).key for _ in range(5))

    threads = [threading.Thread(target=create, args=(f"tenant {n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    keys = KeyFile(path)
    assert len(made) == 40
    assert all(keys.find(key) for key in made)
    assert len(keys.list()) == 40


def write(path: Path, text: str | bytes) -> None:
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def changed(path: Path, **fields: object) -> str:
    return json.dumps([{**record, **fields} for record in json.loads(path.read_text())])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: write(path, path.read_bytes()[:-20]), "cannot be read as the gateway's"),
        (lambda path: write(path, ""), "cannot be read"),
        (lambda path: write(path, b"\xff\x00"), "cannot be read"),
        (lambda path: write(path, "{}"), "cannot be read"),
        (lambda path: write(path, changed(path, role="admin")), "0.role: Extra inputs"),
        (lambda path: write(path, changed(path, sha256="f00")), "0.sha256"),
        (lambda path: write(path, changed(path, id="../x")), "0.id"),
        (
            lambda path: write(path, json.dumps(json.loads(path.read_text()) * 2)),
            "two keys have the id",
        ),
        (lambda path: path.chmod(0o644), "is open to others (mode 644); make it mode 600"),
        (lambda path: path.chmod(0o602), "is open to others"),
        (lambda path: (path.unlink(), path.mkdir(mode=0o700)), "is a directory"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_one_clear_error(
    keys: KeyFile, path: Path, damage: Damage, said: str
) -> None:
    """For whoever looks a key up, lists or changes them; what is in the file stays there."""
    made = keys.create("acme")
    assert keys.find(made.key)
    damage(path)
    before = path.read_bytes() if path.is_file() else None

    for use in (keys.list, lambda: keys.find(made.key), lambda: keys.create("beta")):
        with pytest.raises(KeysError) as refused:
            use()
        assert said in str(refused.value)
        assert str(path) in str(refused.value)
        assert made.record.sha256[:8] not in str(refused.value)

    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_file_that_was_mended_is_used_again(keys: KeyFile, path: Path) -> None:
    """The server needs no restart for that."""
    made = keys.create("acme")
    path.chmod(0o644)
    with pytest.raises(KeysError):
        keys.find(made.key)

    path.chmod(0o600)

    assert keys.find(made.key)


def test_a_disk_that_is_full_leaves_the_keys_as_they_were(
    keys: KeyFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No half file, no key that is known only until the next start, no draft left."""
    made = keys.create("acme")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            keys.create("beta")
        with pytest.raises(OSError, match="No space left"):
            keys.revoke(made.record.id)

    assert keys.find(made.key)
    assert [record.tenant for record in keys.list()] == ["acme"]
    assert {one.name for one in path.parent.iterdir()} == {"keys.json", ".keys.json.lock"}


def test_a_key_that_nobody_has_cannot_be_revoked(keys: KeyFile) -> None:
    """The message says where the ids are."""
    keys.create("acme")

    with pytest.raises(KeysError, match=r"no key 'nobody'; `orchestrator keys list`"):
        keys.revoke("nobody")


@pytest.mark.parametrize(
    ("tenant", "limits"),
    [
        ("", {}),
        (" acme", {}),
        ("ac\nme", {}),
        ("ac\x1bme", {}),
        ("x" * 257, {}),
        ("acme", {"requests_per_minute": 0}),
        ("acme", {"tokens_per_minute": -1}),
        ("acme", {"money_usd_per_day": "nan"}),
        ("acme", {"open_streams": 0}),
        ("acme", {"models": ("",)}),
        ("acme", {"is_admin": True}),
    ],
)
def test_a_limit_that_is_none_makes_no_key(
    keys: KeyFile, path: Path, tenant: str, limits: dict[str, object]
) -> None:
    """Nothing is written down that could not be read again."""
    with pytest.raises(ValidationError):
        keys.create(tenant, **limits)

    assert not path.exists()


def test_names_may_be_in_any_script(keys: KeyFile) -> None:
    """People are called what they are called."""
    made = keys.create("Bücher & Söhne 書店")

    found = keys.find(made.key)

    assert found is not None
    assert found.tenant == "Bücher & Söhne 書店"
