"""Rows that ask the same are known by it."""

from orchestrator.batch.rows import Row


def row(**fields: object) -> Row:
    return Row(position=3, line=4, fields=fields)


def test_equal_content_has_one_digest() -> None:
    """Wherever the rows stand, and in whatever order their fields were written."""
    other = Row(position=9, line=10, custom_id="x", fields={"b": 2, "a": 1})

    assert row(a=1, b=2).digest == other.digest
    assert len(other.digest) == 32


def test_other_content_has_another_digest() -> None:
    """Text and a number that reads the same are not equal."""
    assert len({one.digest for one in (row(a=1), row(a="1"), row(b=1), row(), row(a=1.5))}) == 5
