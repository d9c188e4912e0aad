"""One answer from several: what counts, what does not, and what is said about it."""

import json
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.synthesis import (
    SYNTHESES,
    Ballot,
    Draft,
    all_agree,
    best,
    borda,
    extract_answer,
    fields,
    finds_no_faults,
    merge_objects,
    normalise,
    pick,
    rank,
    read_items,
    read_object,
    read_pick,
    read_ranking,
    vote,
    write,
)


def draft(member: str, text: str = "", weight: float = 1.0, **about: str) -> Draft:
    return Draft(
        member=member,
        text=text or f"draft of {member}",
        label=member.upper(),
        weight=weight,
        **about,  # type: ignore[arg-type]
    )


def ranking(by: str, *labels: str, own: str = "") -> Ballot:
    own_labels = frozenset([own]) if own else frozenset()
    return Ballot(by=by, text=json.dumps({"ranking": labels, "reason": ""}), own=own_labels)


THREE = [draft("a"), draft("b"), draft("c")]


def test_every_combination_a_pattern_may_name_is_in_the_table() -> None:
    """A pattern's `combine` is a key of this table."""
    assert set(SYNTHESES) == {"write", "vote", "rank", "pick", "fields"}


# The final answer of a draft.


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Let me see.\nANSWER: 42", "42"),
        ("**Final answer:** Paris", "Paris"),
        ("answer = 7", "7"),
        ("Answer:\n**blue**", "blue"),
        ("ANSWER: 1\nNo, wait.\nANSWER: 2", "2"),
        ("so\n#### 1,234", "1,234"),
        (r"Thus $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"ANSWER: $\boxed{3}$", "3"),
        ("Adding up, the answer is 12 apples", "12 apples"),
        ("Paris", "Paris"),
        ('{"answer": "Paris", "why": "capital"}', "Paris"),
        ('```json\n{"answer": 4}\n```', "4"),
        ('{"b": 1, "a": [2]}', '{"a": [2], "b": 1}'),
        ('The code is {"x": 1}\nANSWER: 5', "5"),
        (r"An open \boxed{brace", r"An open \boxed{brace"),
    ],
)
def test_the_final_answer_is_found(text: str, answer: str) -> None:
    """In any of the shapes that models use for it."""
    assert extract_answer(text) == answer


@pytest.mark.parametrize("text", ["", "   ", "Some say this.\nSome say that.", "word " * 40])
def test_prose_without_an_answer_is_not_guessed_at(text: str) -> None:
    """What cannot be told is None, to be counted as such."""
    assert extract_answer(text) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("42", "42.0"),
        ("1,000", "1000"),
        ("$5", "5"),
        ("\u22123", "-3"),
        ("Paris.", "paris"),
        ("The  Thames", "thames"),
        ('"yes"', "**Yes**"),
        ("0.50", "0.5"),
    ],
)
def test_answers_that_mean_the_same_count_as_the_same(one: str, other: str) -> None:
    """Case, marks and number style do not count."""
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"), [("42", "43"), ("yes", "no"), ("-3", "3"), ("50%", "50"), ("1.5", "15")]
)
def test_answers_that_differ_count_as_different(one: str, other: str) -> None:
    """No two of these mean the same."""
    assert normalise(one) != normalise(other)


@given(st.text())
def test_any_text_can_be_read_without_harm(text: str) -> None:
    """Readers of model text never raise."""
    extract_answer(text)
    normalise(text)
    read_object(text)
    read_ranking(text, ["A", "B"])
    read_pick(text, ["A", "B"])
    finds_no_faults(text)


# Vote.


def test_the_majority_wins_and_dissent_stays_visible() -> None:
    """Nobody is deleted for standing alone."""
    decision = vote(
        [draft("a", "ANSWER: 4"), draft("b", "ANSWER: 5"), draft("c", "so\nANSWER: 4.0")], ()
    )

    assert decision.winner is not None
    assert decision.winner.member == "a"
    assert decision.outcome == {
        "votes": {"4": 2, "5": 1},
        "unparsable": 0,
        "dissent": ["b"],
        "winner": "4",
    }
    assert decision.summary == "2 of 3 agree, 1 differ"
    assert decision.ranking == ("a", "b", "c")


def test_of_equal_votes_the_heavier_side_wins_then_the_earlier() -> None:
    """Two to two is decided by weight, and by the panel's order after that."""
    sides = [draft("a", "ANSWER: 1"), draft("b", "ANSWER: 2"), draft("c", "ANSWER: 1")]

    heavier = vote([*sides, draft("d", "ANSWER: 2", weight=3)], ())
    earlier = vote([*sides, draft("d", "ANSWER: 2")], ())

    assert heavier.outcome["winner"] == "2"
    assert earlier.outcome["winner"] == "1"


def test_a_draft_without_a_final_answer_is_counted_and_does_not_vote() -> None:
    """It is unparsable, and it dissents."""
    decision = vote(
        [draft("a", "Hard\nto say"), draft("b", "ANSWER: x"), draft("c", "ANSWER: X")], ()
    )

    assert decision.outcome["unparsable"] == 1
    assert decision.outcome["dissent"] == ["a"]
    assert decision.outcome["winner"] == "x"
    assert decision.summary == "2 of 3 agree, 1 without a final answer"


def test_free_text_is_settled_by_a_judge() -> None:
    """Where no two agree word for word, a judge says what most mean."""
    drafts = [draft("a", "Long\ntext"), draft("b", "Other\ntext"), draft("c", "Third\ntext")]

    undecided = vote(drafts, ())
    decision = vote(drafts, [Ballot(by="j", text='{"pick": "B", "reason": "same"}')])

    assert not undecided.settled
    assert undecided.summary == "no two of 3 agree"
    assert decision.settled
    assert decision.outcome["winner"] == "b"
    assert decision.outcome["dissent"] == ["a", "c"]
    assert decision.outcome["unparsable"] == 3


@pytest.mark.parametrize("combine", [vote, rank, pick])
def test_a_single_draft_needs_no_decision(combine: object) -> None:
    """There is nothing to choose between, and nothing to pay a judge for."""
    decision = combine([draft("a", "Long\ntext")], ())  # type: ignore[operator]

    assert decision.settled
    assert decision.text == "Long\ntext"
    assert decision.ranking == ("a",)


@pytest.mark.parametrize("combine", [vote, rank, pick])
def test_no_draft_is_no_decision(combine: object) -> None:
    """Nothing comes of nothing, and it says so."""
    decision = combine([], ())  # type: ignore[operator]

    assert not decision.settled
    assert decision.text is None


def test_no_summary_speaks_of_likelihood() -> None:
    """A count of voices is never printed as a probability of truth."""
    same = [draft(name, "ANSWER: 4") for name in "abc"]

    for decision in (vote(same, ()), rank(THREE, [ranking("a", "B", "C", own="A")])):
        said = decision.summary + json.dumps(decision.outcome)
        assert "%" not in said
        assert "probab" not in said
        assert "confiden" not in said


# Rank.


def test_ranks_add_up_without_self_votes() -> None:
    """Each would put itself first; what counts is what the others say."""
    decision = rank(
        THREE,
        [
            ranking("a", "A", "B", "C", own="A"),
            ranking("b", "B", "C", "A", own="B"),
            ranking("c", "C", "B", "A", own="C"),
        ],
    )

    assert decision.outcome["scores"] == {"a": 0.0, "b": 1.0, "c": 0.5}
    assert decision.outcome["ranking"] == ["b", "c", "a"]
    assert decision.winner == THREE[1]
    assert decision.summary == "B 1.00, C 0.50, A 0.00"


def test_an_unreadable_ranking_is_counted_and_shown() -> None:
    """It has no part in the scores, and nobody is to think it had."""
    decision = rank(THREE, [ranking("x", "C", "A", "B"), Ballot(by="y", text="I like them all.")])

    assert decision.outcome["unparsable"] == 1
    assert decision.outcome["ballots"] == 2
    assert decision.summary.endswith("; 1 of 2 could not be read")
    assert decision.ranking == ("c", "a", "b")


def test_without_a_readable_ranking_nothing_is_settled() -> None:
    """The order that remains is weight and the panel's order."""
    decision = rank([draft("a"), draft("b", weight=2)], [Ballot(by="x", text="?")])

    assert not decision.settled
    assert decision.ranking == ("b", "a")
    assert decision.summary == "no ranking could be read"


def test_what_a_ranking_leaves_out_shares_the_places_behind() -> None:
    """A partial ballot still says who is best."""
    assert borda(["B"], ["A", "B", "C"]) == {"B": 1.0, "A": 0.25, "C": 0.25}
    assert borda([], ["A"]) == {}


def test_equal_scores_fall_back_on_weight() -> None:
    """And a cut draft comes behind a whole one."""
    drafts = [draft("a", finish_reason="length"), draft("b"), draft("c", weight=2)]

    assert rank(drafts, [ranking("x", "A", "B", "C"), ranking("y", "C", "B", "A")]).ranking == (
        "c",
        "b",
        "a",
    )


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ('{"ranking": ["B", "A", "C"]}', ["B", "A", "C"]),
        ('Sure:\n```json\n{"ranking": ["draft B", "**A**"]}\n```', ["B", "A"]),
        ('{"ranking": ["B", "B", "Z", 3]}', ["B"]),
        ('{"ranking": ["A"]} stands in draft A. {"reason": "", "ranking": ["B", "A"]}', ["B", "A"]),
        ('{"ranking": ["b (clear)", "C - vague", "a"]}', ["B", "C", "A"]),
        ('{"ranking": []}', None),
        ('{"ranking": "B"}', None),
        ("C > A > B", ["C", "A", "B"]),
        ("Draft C > Draft A", ["C", "A"]),
        ("1. B\n2. Draft A\n3. C", ["B", "A", "C"]),
        ("Final ranking: B, C, A.", ["B", "C", "A"]),
        ("B is fine.", None),
        ("X > Y", None),
        ("", None),
    ],
)
def test_rankings_are_read_in_any_common_shape(text: str, order: list[str] | None) -> None:
    """JSON first, then chains and lists; else it counts as unreadable."""
    assert read_ranking(text, ["A", "B", "C"]) == order


# Pick.


def test_the_most_picked_draft_wins() -> None:
    """Of several judges the majority decides; the reasons are kept."""
    decision = pick(
        THREE,
        [
            Ballot(by="x", text='{"pick": "C", "reason": "correct"}'),
            Ballot(by="y", text="Best: A"),
            Ballot(by="z", text="C"),
            Ballot(by="w", text="none of them"),
        ],
    )

    assert decision.text == "draft of c"
    assert decision.outcome == {
        "picked": "c",
        "reason": "correct",
        "votes": {"c": 2, "a": 1},
        "unparsable": 1,
    }


def test_a_judge_has_no_say_in_its_own_draft() -> None:
    """A vote for oneself is as good as none."""
    decision = pick(THREE, [Ballot(by="a", text='{"pick": "A"}', own=frozenset("A"))])

    assert not decision.settled
    assert decision.outcome["unparsable"] == 1


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ('{"pick": "B", "reason": "r"}', ("B", "r")),
        ('{"pick": "draft B"}', ("B", "")),
        ('{"pick": "b"}', ("B", "")),
        ('{"pick": "B (the second one)", "reason": "r"}', ("B", "r")),
        ('{"pick": "Draft B: Paris"}', ("B", "")),
        ('{"pick": "A tie"}', None),
        ('Draft A says {"pick": "A"}, which I ignore.\n{"reason": "r", "pick": "B"}', ("B", "r")),
        ('{"pick": "Z"}', None),
        ('{"pick": 7}', None),
        ("My choice is B", ("B", "")),
        ("Best answer: A", ("A", "")),
        ("**B**", ("B", "")),
        ("Draft A", ("A", "")),
        ("A good answer exists.", None),
    ],
)
def test_picks_are_read_in_any_common_shape(text: str, choice: tuple[str, str] | None) -> None:
    """A letter that was not shown is no choice."""
    assert read_pick(text, ["A", "B"]) == choice


# Write and fields.


def test_the_first_text_that_says_something_is_the_answer() -> None:
    """An empty one is passed over."""
    decision = write(THREE, [Ballot(by="x", text=" "), Ballot(by="y", text="Done.")])

    assert decision.text == "Done."
    assert decision.outcome == {"synthesizer": "y"}
    assert not write(THREE, ()).settled


def test_objects_merge_field_by_field() -> None:
    """Lists are united, objects merged, of the rest the most frequent value stays."""
    merged = merge_objects(
        [
            {"verdict": "yes", "points": ["a", "b"], "in": {"x": 1}},
            {"verdict": "no", "points": ["b", "c"], "in": {"y": 2}},
            {"verdict": "no", "points": []},
        ]
    )

    assert merged == {"verdict": "no", "points": ["a", "b", "c"], "in": {"x": 1, "y": 2}}


def test_fields_are_read_from_ballots_else_from_drafts() -> None:
    """Whoever was asked is heard; else the drafts speak for themselves."""
    asked = fields(THREE, [Ballot(by="x", text='{"n": 1}'), Ballot(by="y", text="prose")])
    unasked = fields([draft("a", '{"n": 2}'), draft("b", '{"n": 2}')], ())

    assert asked.fields == {"n": 1}
    assert asked.outcome["unparsable"] == 1
    assert json.loads(unasked.text or "") == {"n": 2}


def test_unreadable_fields_are_handed_on_as_text() -> None:
    """Words are better than nothing."""
    decision = fields((), [Ballot(by="x", text=""), Ballot(by="y", text="They agree.")])

    assert decision.text == "They agree."
    assert not decision.settled


@pytest.mark.parametrize(
    ("found", "text", "items"),
    [
        ({"q": ["one", " two ", "", 3]}, "", ["one", "two", "3"]),
        ({}, "1. one\n2) two\n- three\nno item", ["one", "two", "three"]),
        ({"q": "one"}, "nothing", []),
    ],
)
def test_lists_are_read_from_json_or_text(
    found: dict[str, object], text: str, items: list[str]
) -> None:
    """At most as many as allowed."""
    assert read_items(found, text, "q", 5) == items
    assert read_items(found, text, "q", 1) == items[:1]


# What stops early, and what is left at the end.


@pytest.mark.parametrize(
    ("text", "none"),
    [
        ("No faults.", True),
        ("No serious faults were found", True),
        ('{"critiques": [{"label": "A", "faults": []}, {"label": "B", "faults": [""]}]}', True),
        ('{"critiques": [{"label": "A", "faults": ["no faults"]}]}', True),
        ('{"critiques": [{"label": "A", "faults": ["2 + 2 is not 5"]}]}', False),
        ("No faults in A, but B is wrong.", False),
        ("", False),
    ],
)
def test_a_critique_without_faults_is_understood(text: str, none: bool) -> None:
    """Only when nothing at all is left."""
    assert finds_no_faults(text) is none


def test_agreement_needs_two_and_all() -> None:
    """One draft agrees with nobody, and an unreadable one with none."""
    assert all_agree([draft("a", "ANSWER: 4"), draft("b", "ANSWER: 4.0")])
    assert not all_agree([draft("a", "ANSWER: 4")])
    assert not all_agree([draft("a", "ANSWER: 4"), draft("b", "Hard\nto say")])
    assert not all_agree([draft("a", "ANSWER: 4"), draft("b", "ANSWER: 5")])


def test_the_best_draft_is_ranked_whole_heavy_early_and_never_just_long() -> None:
    """In this order."""
    long = draft("a", "x" * 10_000)
    heavy, cut = draft("b", weight=2), draft("c", weight=9, finish_reason="length")

    assert best([long, heavy, cut]) == heavy
    assert best([long, heavy, cut], ["c", "a"]) == cut
    assert best([long, draft("d")]) == long


@pytest.mark.parametrize(
    "text", ["x" + " " * 60_000 + ".", "answer" + " " * 60_000, "> " * 30_000 + "x", "```" * 20_000]
)
def test_no_answer_takes_long_to_read(text: str) -> None:
    """What a model writes must not hold up everybody else: reading is linear in its length."""
    begun = process_time()
    extract_answer(text)

    assert process_time() - begun < 1  # it took ten seconds and more
