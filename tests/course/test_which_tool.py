"""The quiz of chapter 12: every choice has a reason, and a choice is told apart from the others."""

from __future__ import annotations

import pytest

from minilora.course.chapters.ch12.quiz import JOBS, TOOLS, tell_tools, which_tool


@pytest.mark.parametrize("name", JOBS)
def test_every_tool_has_a_reason_of_its_own(name):
    job = JOBS[name]
    assert tuple(job.reasons) == TOOLS
    assert job.right in TOOLS
    others = [reason for tool, reason in job.reasons.items() if tool != job.right]
    assert job.reasons[job.right] not in others


def test_every_tool_is_the_right_one_somewhere():
    assert {job.right for job in JOBS.values()} == set(TOOLS)


def test_a_question_without_a_choice_gives_no_reason_away(capsys):
    which_tool("on call")
    said = " ".join(capsys.readouterr().out.split())
    assert JOBS["on call"].text in said
    assert not any(reason in said for reason in JOBS["on call"].reasons.values())


@pytest.mark.parametrize(("choice", "mark"), [(" Look-up ", "✓"), ("adapter", "✗")])
def test_a_choice_gets_its_reason_and_the_better_one(capsys, choice, mark):
    which_tool("on call", choice)
    said = " ".join(capsys.readouterr().out.split())
    job = JOBS["on call"]
    assert mark in said
    assert job.reasons[choice.strip().casefold()] in said
    assert job.reasons[job.right] in said


def test_a_tool_that_is_none_is_told(capsys):
    which_tool("on call", "magic")
    said = capsys.readouterr().out
    assert "magic" in said
    assert "✓" not in said and "✗" not in said


def test_an_unknown_job_is_refused():
    with pytest.raises(ValueError, match="mars"):
        which_tool("mars")


def test_all_reasons_are_told_in_the_end(capsys):
    tell_tools()
    said = " ".join(capsys.readouterr().out.split())
    assert all(job.reasons[job.right] in said for job in JOBS.values())
