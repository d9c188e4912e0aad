"""Outcomes as hypothesis makes them: whatever a model may have said."""

from hypothesis import strategies as st

from orchestrator.batch.outcome import Failure, ModelUse, Outcome

TEXTS = st.text(max_size=12) | st.text(st.sampled_from('=+-@,"\t\r\n \0\ud83dé'), max_size=6)
COUNTS = st.integers(0, 2**40)
SECONDS = st.floats(0, 1e6, allow_nan=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
USES = st.builds(
    ModelUse,
    deployment=st.sampled_from(["gpt", "claude"]),
    calls=st.integers(1, 5),
    failed=st.integers(0, 1),
    prompt_tokens=COUNTS,
    completion_tokens=COUNTS,
    cost_nanousd=COUNTS,
    elapsed_s=SECONDS,
)
FAILURES = st.builds(Failure, kind=TEXTS, message=TEXTS, status=st.integers(400, 599))
OUTCOMES = st.builds(
    Outcome,
    position=st.integers(0, 2**40),
    line=st.integers(1, 2**40),
    custom_id=TEXTS,
    digest=st.just("0123456789abcdef" * 2),
    status=st.sampled_from(["complete", "degraded", "partial", "failed"]),
    text=TEXTS,
    tool_calls=st.lists(st.dictionaries(TEXTS, JSON, max_size=2), max_size=2).map(tuple),
    parsed=JSON,
    finish_reason=st.sampled_from(["", "stop", "tool_calls"]),
    model=TEXTS,
    run_id=st.sampled_from(["", "r1"]),
    at_s=SECONDS,
    elapsed_s=SECONDS,
    use=st.lists(USES, max_size=3).map(tuple),
    causes=st.lists(TEXTS, max_size=2).map(tuple),
    failure=st.none() | FAILURES,
    receipt=st.none() | st.dictionaries(TEXTS, JSON, max_size=2),
    is_repeated=st.booleans(),
    ignored=st.dictionaries(TEXTS, TEXTS, max_size=2),
    agreement=st.none() | st.floats(0, 1),
)
