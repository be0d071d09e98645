"""Examples solved step by step: the answer drawn after every supervision step, as a grid or as a row of tokens."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from titans_trm.data.spec import PAD
from titans_trm.evaluation.html.page import Html, join, tag

_CELL = 20.0  # side of a cell in the drawing's own coordinates
_MOST_BOARDS = 6  # supervision steps drawn of one example
_MOST_TOKENS = 400  # of a sequence that is shown
_WALL, _PATH, _ENDS = "#", "o", ("S", "G")  # labels of a maze
_TINY = 12  # sides above this are drawn without letters


@dataclass(frozen=True)
class Solving:
    """One example and what the model answered after each of S supervision steps."""

    title: str
    inputs: Sequence[int]  # (N,) tokens
    targets: Sequence[int]  # (N,) tokens, PAD where not scored
    answers: Sequence[Sequence[int]]  # (S, N)
    halting_logits: Sequence[float]  # (S,)


@dataclass(frozen=True)
class Drawing:
    """How tokens of a task are drawn."""

    labels: Mapping[int, str]  # token -> what stands in its cell; a blank is ""
    grid: tuple[int, int] | None = None  # rows, columns; None: a row of tokens
    box: tuple[int, int] | None = None  # rows, columns of a Sudoku's box


def draw_solving(example: Solving, drawing: Drawing) -> Html:
    """Return the input and the answers, each with its number of cells right and the halting probability."""
    blocks = [_block("the puzzle" if drawing.grid else "input", _draw(example.inputs, None, None, example, drawing))]
    halts = _halting_step(example.halting_logits)
    before: Sequence[int] | None = None
    for step in _chosen_steps(len(example.answers), halts):
        answer = example.answers[step - 1]
        caption = _caption(example, step, halts)
        blocks.append(_block(caption, _draw(answer, before, example.targets, example, drawing)))
        before = answer
    side = "" if drawing.grid is None else f"--side: {min(84 + 12 * drawing.grid[1], 250)}px"
    boards = tag("div", *blocks, class_="boards", style=side or None)
    return tag("div", tag("h3", example.title), boards, class_="example")


def _caption(example: Solving, step: int, halts: int | None) -> Html:
    scored = [(t, a) for t, a in zip(example.targets, example.answers[step - 1], strict=True) if t != PAD]
    right = sum(target == answer for target, answer in scored)
    logit = example.halting_logits[step - 1]
    done = right == len(scored)
    parts = [
        tag("b", f"step {step}"),
        " · ",
        tag("span", "solved" if done else f"{len(scored) - right} wrong", class_="good" if done else "bad"),
        f" · {100 * _sigmoid(logit):.0f} % sure" if math.isfinite(logit) else "",
        join((" · ", tag("b", "halts here"))) if step == halts else "",
    ]
    return join(parts)


def _draw(
    tokens: Sequence[int],
    before: Sequence[int] | None,
    targets: Sequence[int] | None,
    example: Solving,
    drawing: Drawing,
) -> Html:
    if drawing.grid is None:
        return _row_of_tokens(tokens, targets, drawing)
    rows, columns = drawing.grid
    parts: list[Html] = []
    for index, token in enumerate(tokens):
        y, x = divmod(index, columns)
        target = None if targets is None else targets[index]
        if targets is not None and target == PAD:
            continue  # outside of what is scored: nothing to show
        given = example.inputs[index] == example.targets[index]
        changed = before is not None and before[index] != token
        parts.append(_cell(x, y, drawing.labels.get(token, str(token)), target, token, given, changed, rows > _TINY))
    if drawing.box is not None:
        parts += _boxes(rows, columns, drawing.box)
    view = f"-1 -1 {columns * _CELL + 2:g} {rows * _CELL + 2:g}"
    what = "puzzle" if targets is None else "answer"
    return tag("svg", *parts, viewBox=view, role="img", aria_label=f"{what}, {rows} rows of {columns} cells")


def _cell(
    x: int, y: int, label: str, target: int | None, token: int, given: bool, changed: bool, tiny: bool
) -> Html:  # fmt: skip
    kind, mark = "given" if given else "", "given-text" if given else ""
    if label in (_WALL, _PATH, *_ENDS):
        kind = {"#": "wall", "o": "path"}.get(label, "end")
    if target is not None and token != target:
        kind, mark = "wrong", "wrong-text"
    elif target is not None and not given and label not in (_WALL, _PATH, *_ENDS):
        kind = "right"
    place = f'x="{x * _CELL:g}" y="{y * _CELL:g}" width="{_CELL:g}" height="{_CELL:g}"'
    parts = [Html(f'<rect class="cell {kind}" {place}/>')]
    if changed and not given:
        inner = f'x="{x * _CELL + 1.4:g}" y="{y * _CELL + 1.4:g}" width="{_CELL - 2.8:g}" height="{_CELL - 2.8:g}"'
        parts.append(Html(f'<rect class="changed" {inner} rx="2"/>'))
    if label.strip() and not tiny and label not in (_WALL, _PATH):
        middle = {"x": x * _CELL + _CELL / 2, "y": y * _CELL + _CELL / 2 + 0.5}
        parts.append(tag("text", label, class_=mark or None, **middle))
    return join(parts)


def _boxes(rows: int, columns: int, box: tuple[int, int]) -> list[Html]:
    height, width = box[0] * _CELL, box[1] * _CELL
    return [
        Html(f'<rect class="box" x="{x * width:g}" y="{y * height:g}" width="{width:g}" height="{height:g}"/>')
        for y in range(rows // box[0])
        for x in range(columns // box[1])
    ]


def _row_of_tokens(tokens: Sequence[int], targets: Sequence[int] | None, drawing: Drawing) -> Html:
    """Return the tokens that matter: all of an input, the scored ones of an answer."""
    spans = []
    for index, token in enumerate(tokens):
        if targets is None:
            spans.append(tag("span", drawing.labels.get(token, str(token))))
        elif targets[index] != PAD:
            kind = "right" if token == targets[index] else "wrong"
            spans.append(tag("span", drawing.labels.get(token, str(token)), class_=kind))
    more = [tag("span", f"… {len(spans) - _MOST_TOKENS} more")] if len(spans) > _MOST_TOKENS else []
    return tag("div", *spans[:_MOST_TOKENS], *more, class_="tokens")


def _block(caption: object, drawing: Html) -> Html:
    return tag("div", tag("p", caption), drawing, class_="board")


def _chosen_steps(count: int, halts: int | None) -> list[int]:
    """Return the steps that are drawn: all of a few; of many the first ones, that of the halt and the last ones."""
    if count <= _MOST_BOARDS:
        return list(range(1, count + 1))
    wanted = [1, count, halts or count // 2, 2, 3, count // 2, 4, 5, 6]
    return sorted(list(dict.fromkeys(wanted))[:_MOST_BOARDS])


def _halting_step(logits: Sequence[float]) -> int | None:
    return next((step for step, logit in enumerate(logits, start=1) if logit > 0), None)


def _sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value)) if value > -500 else 0.0
