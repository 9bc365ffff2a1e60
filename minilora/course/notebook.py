"""What a chapter calls: check, hint, solution, answer, predict, reveal, slider, style, …"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minilora.course import progress
from minilora.course.checking import PASSED, UNWRITTEN, missing, run_check
from minilora.course.exercises import find_exercise
from minilora.course.frames import FRAMES_VARIABLE, draw_frames, label, write_frames
from minilora.course.kernel import live_shell
from minilora.course.source import ROOT

PLAIN_VARIABLE = "MINILORA_PLAIN_NOTEBOOK"  # set where nobody can move a slider

_solved: dict[str, Callable[..., Any]] = {}
_hints: dict[str, int] = {}
_guesses: dict[str, Any] = {}


def check(id: str, function: Any = None) -> None:
    """Check your answer to exercise `id`, print what was found, and note it in your folder.

    Without `function` it is what the notebook calls by the exercise's name.
    """
    exercise = find_exercise(id)
    if function is None:
        here = sys._getframe(1).f_globals  # the names of the notebook, or file, that calls
        if exercise.name not in here:
            print(missing(exercise))
            return
        function = here[exercise.name]
    if function is exercise.reference:  # a later cell has put answer(id) under the same name
        print(f"○ {id} {exercise.name}: this is our version. Run your own cell again, then this.")
        return
    outcome = run_check(exercise, function)
    _solved.pop(id, None)
    if outcome.status == PASSED:
        _solved[id] = function
    print(outcome)
    if outcome.status != UNWRITTEN:
        _note(lambda folder: progress.note_try(folder, id, outcome.passed))


def answer(id: str) -> Callable[..., Any]:
    """Your function for exercise `id` where its check has passed in this session, else ours."""
    return _solved.get(id) or find_exercise(id).reference


def hint(id: str, *, after: int | None = None, folder: Path | None = None) -> None:
    """Print the next of the three hints for exercise `id`.

    after: how many were given before, where that is known from elsewhere than this session;
    folder: where to note it, the notebook's own by default.
    """
    hints = find_exercise(id).hints
    number = min((_hints.get(id, 0) if after is None else after) + 1, len(hints))
    _hints[id] = number
    print(f"Hint {number} of {len(hints)} for {id}: {hints[number - 1]}")
    if number == len(hints):
        print(f'That was the last one. solution("{id}") shows ours.')
    _note(lambda folder: progress.update(folder, id, hints=number), folder)


def solution(id: str) -> None:
    """Print our solution of exercise `id`."""
    print(find_exercise(id).solution)
    _note(lambda folder: progress.update(folder, id, solution=True))


def predict(name: str, question: str, guess: Any = None) -> None:
    """Ask a question whose answer a later cell shows with `reveal(name, …)`.

    name: of this question, unlike any other of the chapter. guess: what the learner put in place
    of None.
    """
    _guesses[name] = guess
    if guess is None:
        print(f"{question}\nWrite your guess in place of None and run this cell before you go on.")
    else:
        print(f"{question}\nYou say {guess}. The next figure shows it.")


def reveal(name: str, truth: Any) -> None:
    """Show the answer to the question `name`, beside the learner's guess where there is one.

    Raises ValueError for a question that `predict` did not ask.
    """
    if name not in _guesses:
        raise ValueError(f"got the question {name!r}, expected one of {sorted(_guesses)}")
    shown = f"{truth:.3g}" if isinstance(truth, float) else str(truth)
    guess = _guesses[name]
    print(f"Measured: {shown}." + ("" if guess is None else f" You said {guess}."))


def _note(write: Callable[[Path], object], folder: Path | None = None) -> None:
    folder = folder or progress.current_folder()
    if folder is None:
        return
    try:
        write(folder)
    except (OSError, ValueError) as error:
        print(f"(your progress was not saved: {error})")


def slider(draw: Callable[..., Any], **ranges: Any) -> None:
    """Show sliders that call `draw` again, after a figure that already says the same.

    ranges: (low, high) or (low, high, step), or a list of the values to slide through; a slider
    starts at `draw`'s default.
    Without ipywidgets or a live kernel nothing is shown. Where chapters are tested, `draw` runs
    once at the lowest values, unseen, so that a mistake in it is found; where they are built, it
    draws the frames of every place for the book.
    """
    if folder := os.environ.get(FRAMES_VARIABLE):
        number = len(list(Path(folder).iterdir())) + 1
        write_frames(Path(folder) / f"{number}.json", draw_frames(draw, ranges), "")
        return
    if os.environ.get(PLAIN_VARIABLE):
        _draw_unseen(draw, {name: _first(choice) for name, choice in ranges.items()})
        return
    if live_shell() is None:
        return
    try:
        import ipywidgets
    except ImportError:
        return
    defaults = inspect.signature(draw).parameters
    for name, choice in ranges.items():
        if isinstance(choice, list):  # which ipywidgets would show as a menu
            shown = [(label(v), v) for v in choice]
            start = defaults[name].default if name in defaults else None
            start = start if start in choice else choice[0]
            ranges[name] = ipywidgets.SelectionSlider(options=shown, value=start, description=name)
    ipywidgets.interact(draw, **ranges)


def _first(choice: Any) -> Any:
    return choice[0] if isinstance(choice, (tuple, list)) else choice


def _draw_unseen(draw: Callable[..., Any], values: dict[str, Any]) -> None:
    from matplotlib import pyplot as plt

    before = set(plt.get_fignums())
    draw(**values)
    for number in set(plt.get_fignums()) - before:
        plt.close(number)


def style(*, photographs: bool = False) -> None:
    """One look for all figures of the course: small, legible in print and on a dark page.

    photographs: keep figures as JPEG, a tenth of the size of PNG for them.
    """
    from matplotlib import pyplot as plt

    if photographs and live_shell() is not None:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("jpeg", pil_kwargs={"quality": 88})

    plt.rcParams.update(
        {
            "figure.figsize": (6.4, 3.4),
            "figure.dpi": 96,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "grid.alpha": 0.3,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
        }
    )


def data_folder(name: str) -> Path:
    """The folder `data/NAME` of the checkout: `ward-base`, `ward`. Raises ValueError if absent."""
    folder = ROOT / "data" / name
    if not folder.is_dir():
        raise ValueError(f"got no folder {folder}; the course needs a checkout of the project")
    return folder
