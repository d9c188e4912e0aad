"""Media are sent along as data; an address that somebody would fetch from here is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import CompletionRequest, InvalidRequest, LLMProvider
from adapters._media import is_local, refused_url
from tests.adapters.wires import KEY, PROVIDERS, plain, wire

PICTURE = "data:image/png;base64,iVBORw0KGgo="
METADATA = "http://169.254.169.254/latest/meta-data/"


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "http://localhost:8080/v1",
        "http://LOCALHOST/v1",
        "http://localhost./v1",
        "http://api.localhost/v1",
        "http://127.0.0.1:8080/v1",
        "http://127.0.0.1./v1",
        "http://127.8.9.1/v1",
        "http://127.1/v1",
        "http://127.0.1/v1",
        "http://2130706433/v1",
        "http://0x7f000001/v1",
        "http://0x7f.0.0.1/v1",
        "http://0177.0.0.1/v1",
        "http://0/v1",
        "http://0.0.0.0:8000/v1",
        "http://10.0.0.7/v1",
        "http://172.16.0.1/v1",
        "http://192.168.1.20/v1",
        "http://100.64.0.1/v1",
        "http://169.254.169.254/latest",
        "http://[::1]:8080/v1",
        "http://[::]/v1",
        "http://[0:0:0:0:0:0:0:1]/v1",
        "http://[fe80::1]/v1",
        "http://[fe80::1%25eth0]/v1",
        "http://[fd00::1]/v1",
        "http://[::ffff:127.0.0.1]/v1",
        "http://[::ffff:10.0.0.1]/v1",
        "http://user:word@127.0.0.1/v1",
        "http://ollama:11434/v1",
        "http://vllm/v1",
        "http://gpu-box.local/v1",
        "http://gpu-box.lan/v1",
        "http://router.home.arpa/v1",
        "http://llm.svc.cluster.local/v1",
        "http://host.docker.internal:11434/v1",
        "http://Metadata.Google.Internal/v1",
        "http:///v1",
        "",
        "no address at all",
        "http://[not-an-address",
    ],
)
def test_addresses_of_this_network_are_known_in_every_spelling(url: str) -> None:
    """What cannot be read counts as near: that is the careful side."""
    assert is_local(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.openai.com/v1",
        "https://openrouter.ai/api/v1",
        "https://8.8.8.8/v1",
        "https://[2606:4700::1111]/v1",
        "https://localhost.example.com/v1",
        "https://internal.example.com/v1",
        "https://127.0.0.1.example.com/v1",
    ],
)
def test_addresses_of_the_internet_are_not_taken_for_local(url: str) -> None:
    """A name is judged by its end."""
    assert not is_local(url)


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def message(*parts: object, **more: object) -> dict[str, Any]:
    return {"role": "user", "content": list(parts), **more}


# Where an address can stand: each takes a URL and gives messages.
PLACES: dict[str, Any] = {
    "an image": lambda url: [message(image(url))],
    "an image in short": lambda url: [message({"type": "image_url", "image_url": url})],
    "a file": lambda url: [message({"type": "file", "file": {"file_data": url}})],
    "a file by its id": lambda url: [message({"type": "file", "file": {"file_id": url}})],
    "a video": lambda url: [message({"type": "video_url", "video_url": {"url": url}})],
    "audio": lambda url: [message({"type": "input_audio", "input_audio": {"data": url}})],
    "a source": lambda url: [message({"type": "image", "source": {"type": "url", "url": url}})],
    "a tool's result": lambda url: [{"role": "tool", "content": [image(url)]}],
    "a result block": lambda url: [message({"type": "tool_result", "content": [image(url)]})],
    "a list in a part": lambda url: [
        message({"type": "document", "source": {"type": "content", "content": [image(url)]}})
    ],
    "images beside the content": lambda url: [
        {"role": "assistant", "content": "look", "images": [image(url)]}
    ],
    "a part that says it is text": lambda url: [
        message({"type": "text", "text": "hi", "image_url": {"url": url}})
    ],
    "a content that is one part": lambda url: [{"role": "user", "content": image(url)}],
    "the second message": lambda url: [
        message({"type": "text", "text": "hi"}),
        message(image(url)),
    ],
}
FOREIGN = [
    METADATA,
    "http://example.com/a.png",
    "HTTP://EXAMPLE.COM/a.png",
    " http://example.com/a.png",
    "\thttp://example.com/a.png",
    "ftp://example.com/a.png",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "gs://bucket/a.png",
    "s3://bucket/a.png",
    "gopher://localhost:6379/_x",
    "data:,gs://bucket/a",
    "data:http://example.com/a.png",
]


@pytest.mark.parametrize("url", FOREIGN)
@pytest.mark.parametrize("place", PLACES)
def test_an_address_is_found_wherever_it_stands(place: str, url: str) -> None:
    """Only https is ever sent on without the operator's word."""
    messages = PLACES[place](url)

    assert refused_url(messages, policy=None, provider_fetches=True) is not None
    assert refused_url(messages, policy="refuse", provider_fetches=True) is not None
    assert refused_url(messages, policy="allow", provider_fetches=False) is None


@pytest.mark.parametrize("place", PLACES)
def test_https_is_sent_on_where_the_provider_fetches(place: str) -> None:
    """Except as the id of a file: litellm would fetch that itself."""
    messages = PLACES[place]("https://example.com/a.png?signature=abc")

    refused = refused_url(messages, policy=None, provider_fetches=True)

    assert refused == ("https://example.com/a.png" if place == "a file by its id" else None)
    assert refused_url(messages, policy=None, provider_fetches=False) is not None
    assert refused_url(messages, policy="refuse", provider_fetches=True) is not None


@pytest.mark.parametrize("file_id", ["www.example.com/a.pdf", "https://example.com/a.pdf"])
def test_the_id_of_a_file_is_no_address(file_id: str) -> None:
    """litellm downloads what looks like one, from this machine."""
    messages = PLACES["a file by its id"](file_id)

    assert refused_url(messages, policy=None, provider_fetches=True) == file_id


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("url", [PICTURE, "data:,hello", "data:text/plain,a:b"])
def test_data_may_always_be_sent(place: str, url: str) -> None:
    """There is nothing to fetch, whatever the policy."""
    messages = PLACES[place](url)

    for policy in (None, "refuse", "allow"):
        assert refused_url(messages, policy=policy, provider_fetches=False) is None


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "http://example.com is a site"}],
        [message({"type": "text", "text": METADATA})],
        [message({"type": "input_text", "text": METADATA})],
        [{"role": "assistant", "content": None, "reasoning_content": METADATA}],
        [{"role": "tool", "tool_call_id": "a://b", "content": METADATA}],
        [{"role": "assistant", "content": None, "refusal": METADATA}],
        [{"role": "assistant", "tool_calls": [{"function": {"arguments": '{"u":"a://b"}'}}]}],
        [{"role": "assistant", "tool_calls": [{"function": {"arguments": METADATA}}]}],
        [message({"type": "tool_result", "content": METADATA})],
        [message({"type": "file", "file": {"file_id": "file-abc123"}})],
        [message({"type": "thinking", "thinking": METADATA, "signature": "a://b"})],
        [message({"type": "tool_use", "name": "fetch", "input": {"url": METADATA}})],
        [{"role": "user", "content": None}, {"role": "user"}],
        [],
    ],
)
def test_text_is_text_whatever_it_says(messages: list[dict[str, Any]]) -> None:
    """Nobody fetches a word of the prompt."""
    assert refused_url(messages, policy="refuse", provider_fetches=False) is None


def test_the_refused_address_is_shown_without_its_query_and_not_at_length() -> None:
    """Signed addresses carry secrets there."""
    messages = [message(image(f"https://example.com/{'a' * 500}?sig=secret"))]

    refused = refused_url(messages, policy="refuse", provider_fetches=True)

    assert refused is not None
    assert "secret" not in refused
    assert len(refused) == 200


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=9), st.just(METADATA)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(st.sampled_from(("type", "content", "image_url", "x")), inner),
        ),
        max_leaves=10,
    )
)
def test_no_shape_of_content_makes_it_raise(content: Any) -> None:
    """The provider says what is wrong with a shape."""
    refused_url([{"role": "user", "content": content}], policy=None, provider_fetches=True)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.usefixtures("opened")
async def test_no_adapter_fetches_what_a_caller_names(provider: LLMProvider, place: str) -> None:
    """A refused request is not sent, and nothing is downloaded for it."""
    wired = await wire(provider, plain(provider))
    request = CompletionRequest(messages=PLACES[place](METADATA))

    with pytest.raises(InvalidRequest, match=r"media at 'http://169\.254.*media_urls: allow"):
        await wired.adapter.complete(request)

    assert wired.requests == []


@pytest.mark.parametrize(
    ("provider", "api_base", "is_sent"),
    [
        ("openai", None, True),
        ("anthropic", None, True),
        ("mistral", None, True),
        ("google", None, False),  # litellm would download it here
        ("custom", "https://models.example/v1", True),
        ("custom", "http://127.0.0.1:8080/v1", False),  # the server is in our network
        ("custom", "http://ollama:11434/v1", False),
    ],
)
@pytest.mark.usefixtures("opened")
async def test_who_may_fetch_depends_on_where_the_provider_is(
    provider: str, api_base: str | None, is_sent: bool
) -> None:
    """An https address is sent on only to machines that are not in our network."""
    config = {} if api_base is None else {"api_base": api_base}
    wired = await wire(provider, plain(provider), **config)
    request = CompletionRequest(
        messages=[message(image("https://example.com/a.png"), {"type": "text", "text": "What?"})]
    )

    if is_sent:
        await wired.adapter.complete(request)
        assert b"https://example.com/a.png" in wired.requests[0].content
    else:
        with pytest.raises(InvalidRequest, match="media at"):
            await wired.adapter.complete(request)
        assert wired.requests == []


@pytest.mark.usefixtures("opened")
async def test_an_address_with_a_password_is_not_shown_with_it() -> None:
    """The refusal names the address, not what is secret in it."""
    wired = await wire("openai", plain("openai"))
    messages = [message(image(f"http://me:{KEY}@example.com/a.png?key=abcdefgh"))]

    with pytest.raises(InvalidRequest) as caught:
        await wired.adapter.complete(CompletionRequest(messages=messages))

    assert KEY not in str(caught.value)
    assert "abcdefgh" not in str(caught.value)
    assert "example.com/a.png" in str(caught.value)
