"""Patterns: the built-in ones, what a file may say, and how it is told what is wrong with it."""

from pathlib import Path

import pytest

from orchestrator.errors import PatternError
from orchestrator.patterns import Pattern, PatternLibrary, load_pattern, render, steps
from orchestrator.synthesis import BALLOT_SCHEMAS

BUILT_IN = {
    "best_of_n",
    "compare",
    "council",
    "critique",
    "debate",
    "fact_check",
    "fusion",
    "self_consistency",
}

SMALL = """\
name: small
description: Two stages.
source: a test
stages:
  - name: drafts
    each: panel
  - name: answer
    by: synthesizer
    combine: write
    sees: all
    prompt: |
      {{ question }}
      {{ drafts }}
"""


def problems(folder: Path, text: str, name: str = "small") -> list[str]:
    """What loading a pattern of this text complains about, without the folder."""
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PatternError) as caught:
        load_pattern(path)
    return [line.replace(str(path), f"{name}.yaml") for line in caught.value.problems]


def test_the_built_in_patterns_are_these_and_can_all_be_used() -> None:
    """Each names its source and says in a sentence what it does."""
    patterns = PatternLibrary().load_all()

    assert set(patterns) == BUILT_IN
    assert all(len(pattern.source) > 20 for pattern in patterns.values())
    assert all(pattern.description.endswith(".") for pattern in patterns.values())


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_built_in_prompt_shows_the_question(name: str) -> None:
    """Once a template with the wrong placeholder made models answer nothing at all."""
    for stage in PatternLibrary()[name].stages:
        assert stage.prompt is None or "{{ question }}" in stage.prompt or stage.items


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_built_in_writer_sees_the_drafts(name: str) -> None:
    """Once a single good answer was thrown away because the writer saw only the analysis."""
    last = PatternLibrary()[name].stages[-1]

    assert {"all", "others"} & set(last.sees)


def test_agreement_without_sources_is_no_truth_and_the_receipt_will_say_so() -> None:
    """The caveat is part of the pattern."""
    assert any("not truth" in note for note in PatternLibrary()["fact_check"].notes)


def test_a_library_reads_a_file_only_when_it_is_wanted(tmp_path: Path) -> None:
    """A broken neighbour does not hurt until somebody asks for it."""
    (tmp_path / "broken.yaml").write_text("name: [", encoding="utf-8")
    library = PatternLibrary(tmp_path)

    assert "broken" in library
    assert len(library) == len(BUILT_IN) + 1
    assert library["compare"] is library["compare"]
    with pytest.raises(PatternError, match=r"broken\.yaml:1:"):
        library["broken"]
    with pytest.raises(PatternError, match=r"broken\.yaml"):
        library.load_all()
    with pytest.raises(KeyError):
        library["missing"]


def test_a_file_of_the_operator_replaces_a_built_in_one(tmp_path: Path) -> None:
    """A later folder wins."""
    text = SMALL.replace("name: small", "name: compare")
    (tmp_path / "compare.yaml").write_text(text, encoding="utf-8")
    library = PatternLibrary(tmp_path)

    assert library["compare"].description == "Two stages."
    assert library.path("compare").parent == tmp_path


def test_rounds_become_steps() -> None:
    """A stage of two rounds runs twice, under numbered names."""
    plan = steps(PatternLibrary()["debate"])

    assert [step.name for step in plan] == ["drafts", "debate 1", "debate 2", "vote"]
    assert [step.index for step in plan] == [0, 1, 2, 3]
    assert plan[0].is_first
    assert plan[-1].is_last


# What a file is told.


def test_all_faults_of_a_file_are_told_at_once_with_their_places(tmp_path: Path) -> None:
    """Unknown keys and wrong values, each at its line and column."""
    text = SMALL.replace("description:", "descripton:").replace("each: panel", "each: panels")

    assert problems(tmp_path, text) == [
        "small.yaml:1:1: 'description' is missing",
        "small.yaml:2:1: Unknown key 'descripton', did you mean 'description'?",
        "small.yaml:6:11: stages.0.each: Input should be 'panel' or 'items'",
    ]


def test_an_unknown_variable_is_named_with_those_that_are_known(tmp_path: Path) -> None:
    """At the very line of the template that names it."""
    text = SMALL.replace("{{ drafts }}", "{{ drafts }}\n      {{ answers }} {{ drfts }}")

    found = problems(tmp_path, text)

    assert len(found) == 2
    assert found[0].startswith("small.yaml:14:1: ")
    assert "template: unknown variable 'answers'; known here: question, label," in found[0]
    assert "template: unknown variable 'drfts', did you mean 'drafts'?" in found[1]


def test_a_template_that_cannot_be_read_is_told_at_its_line(tmp_path: Path) -> None:
    """A missing brace in the second line of the prompt."""
    text = SMALL.replace("{{ drafts }}", "{{ drafts }")

    (found,) = problems(tmp_path, text)

    assert found.startswith("small.yaml:13:1: template: unexpected")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: small", "name: other", "named for its pattern; this one would be 'small'"),
        ("    sees: all\n", "", "unknown variable 'drafts'"),
        ("      {{ question }}\n", "", "the question is never shown: add {{ question }}"),
        ("      {{ drafts }}\n", "", "the prompt never shows {{ drafts }}"),
        ("    combine: write\n", "", "the last stage gives the answer"),
        ("    by: synthesizer\n", "", "nobody is called"),
        ("    by: synthesizer\n", "    by: synthesizer\n    each: panel\n", "not both"),
        ("    each: panel\n", "    each: panel\n    samples: 3\n    roles: [a]\n", "not both"),
        ("    by: synthesizer\n", "    by: synthesizer\n    samples: 3\n", "'samples' needs"),
        ("    by: synthesizer\n", "    by: synthesizer\n    roles: [a]\n", "'roles' needs"),
        ("    each: panel\n", "    each: items\n", "'each: items' and 'items: <field>' belong"),
        ("    sees: all\n", "    sees: [all, own]\n", "has an own draft to see"),
        ("    sees: all\n", "    sees: [all, previous]\n", "no earlier stage makes notes"),
        ("    combine: write\n", "    combine: write\n    output: {}\n", "an output of its own"),
        ("    combine: write\n", "    combine: write\n    unless: agree\n", "always run"),
        ("    each: panel\n", "    each: panel\n    output: {}\n", "the first stage makes drafts"),
        (
            "    each: panel\n",
            "    each: panel\n    output: {}\n    makes: drafts\n",
            "is no draft",
        ),
        ("  - name: answer\n", "  - name: drafts\n", "a second stage is called 'drafts'"),
        ("    each: panel\n", "    each: panel\n    system: '{{ drafts }}'\n", "known here: label"),
        ("name: small", "name: &x small", "Anchors"),
        ("name: small", "name: small\nname: small", "already"),
    ],
)
def test_stages_that_contradict_each_other_are_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    """Every check that no single field can make, told in one line with its place."""
    assert old in SMALL

    found = problems(tmp_path, SMALL.replace(old, new, 1))

    assert any(message in line for line in found), found
    assert all(line.startswith("small.yaml:") for line in found)


MIDDLE = """\
  - name: middle
    each: panel
    makes: notes
    sees: others
    prompt: "{{ question }} {{ others }}"
"""


@pytest.mark.parametrize(
    ("middle", "message"),
    [
        (MIDDLE + "    samples: 2\n", "only the first stage may have 'samples'"),
        (MIDDLE.replace("makes: notes", "combine: rank").replace("others", "all", 1), "'others'"),
        (
            "  - name: middle\n    each: panel\n    combine: pick\n",
            "whoever decides a 'pick' needs a prompt and must see others or all",
        ),
        (
            MIDDLE.replace("each: panel\n    makes: notes", "by: synthesizer\n    combine: write"),
            "only the last stage writes the answer",
        ),
        (
            "  - name: middle\n    each: items\n    items: questions\n    prompt: '{{ item }}'\n",
            "no earlier 'fields' stage has a list 'questions'",
        ),
        ("  - name: middle\n    each: panel\n    sees: others\n", "it has none"),
        ("  - name: middle\n    by: synthesizer\n    combine: write\n", "'write' needs"),
    ],
)
def test_stages_in_the_middle_are_checked_in_their_place(
    tmp_path: Path, middle: str, message: str
) -> None:
    """What may come first may not come later, and the other way round."""
    text = SMALL.replace("  - name: answer\n", middle + "  - name: answer\n")

    assert any(message in line for line in problems(tmp_path, text))


def test_a_pattern_made_in_python_is_checked_as_well() -> None:
    """The checks belong to the pattern and not to the file."""
    with pytest.raises(ValueError, match="the last stage gives the answer"):
        Pattern.model_validate(
            {
                "name": "x",
                "description": "x",
                "source": "x",
                "stages": [{"name": "drafts", "each": "panel"}],
            }
        )


def test_a_file_that_is_no_pattern_at_all_is_refused(tmp_path: Path) -> None:
    """Nothing there, no mapping, no YAML."""
    assert "empty" in problems(tmp_path, "")[0]
    assert problems(tmp_path, "- a\n")[0].startswith("small.yaml:1:1: ")
    with pytest.raises(PatternError, match="no such file"):
        load_pattern(tmp_path / "nowhere.yaml")


# Rendering.


def test_values_are_never_rendered_again() -> None:
    """A template inside a value is text."""
    assert render("{{ question }}", {"question": "{{ 7 * 7 }}"}, limit=100) == "{{ 7 * 7 }}"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ missing }}",
        "{{ 1 / 0 }}",
        "{{ 'x' + 1 }}",
        "{{ question.append('x') }}",
        "{% for n in range(10 ** 9) %}x{% endfor %}",
    ],
)
def test_a_template_that_fails_says_so(source: str) -> None:
    """Escapes from the sandbox, missing variables and plain mistakes alike."""
    with pytest.raises(PatternError, match="a template failed"):
        render(source, {"question": "q"}, limit=1000)


def test_the_size_of_a_rendered_prompt_is_bounded() -> None:
    """A loop is stopped at the limit and not at the end of memory."""
    with pytest.raises(PatternError, match="longer than 1000 characters"):
        render("{% for n in range(99999) %}word {% endfor %}", {}, limit=1000)


@pytest.mark.parametrize("name", sorted(PatternLibrary()))
def test_whoever_gives_the_answer_is_told_its_language_and_form(name: str) -> None:
    """A synthesizer reads English instructions, and would answer in English."""
    last = PatternLibrary()[name].stages[-1]

    if last.combine == "write":
        assert last.prompt is not None
        assert "language and in the form" in " ".join(last.prompt.split())


@pytest.mark.parametrize("combine", sorted(BALLOT_SCHEMAS))
def test_judges_give_their_reasons_before_they_decide(combine: str) -> None:
    """In the schema and in the words of every prompt that asks for a decision."""
    names = list(BALLOT_SCHEMAS[combine]["properties"])
    stages = [stage for pattern in PatternLibrary().values() for stage in pattern.stages]

    assert names[0] == "reason"
    for stage in stages:
        if stage.combine == combine and stage.prompt:
            assert stage.prompt.index('"reason"') < stage.prompt.index(f'"{names[1]}"')
