"""The report page: well formed, self-contained, safe with hostile texts, complete, and honest about what is missing."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from evaluation_cases import estimate, evaluation
from report_cases import HOSTILE, SUDOKU, facts, metrics, solving

from titans_trm.evaluation.html.boards import Drawing, draw_solving
from titans_trm.evaluation.html.charts import Series, interval_bar, line_chart, ticks
from titans_trm.evaluation.html.page import Html, join, table, tag
from titans_trm.evaluation.html.report import Shown, render_report
from titans_trm.evaluation.results import StepResult

VOID = {"meta", "br"}
SECTIONS = ["trained", "curves", "results", "halting", "calibration", "confusion", "examples", "robustness"]
SECTIONS += ["diagnostics", "repeat"]
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


class Page(HTMLParser):
    """Read a page: every element must be closed by its own end."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.elements if found == name]


def test_the_page_has_every_section_and_a_link_to_each() -> None:
    page = Page(render_report(facts()))
    assert [one["id"] for one in page.all("section")] == SECTIONS
    assert [one["href"] for one in page.all("a")] == [f"#{name}" for name in SECTIONS]


def test_nothing_is_loaded_and_nothing_runs() -> None:
    page = Page(render_report(facts()))
    names = {name for name, _ in page.elements}
    assert not names & {"script", "link", "iframe", "object", "img"}
    for _, attributes in page.elements:
        assert not any(key.startswith("on") or key == "src" for key in attributes)
        assert str(attributes.get("href", "#")).startswith("#")
    (policy,) = [one for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy["content"]).startswith("default-src 'none'")
    assert "@import" not in render_report(facts()) and "url(" not in render_report(facts())


def test_hostile_texts_are_shown_as_texts() -> None:
    page = Page(render_report(facts(config={"experiment": HOSTILE})))
    assert HOSTILE in page.text  # the title, read back as plain text
    assert HOSTILE not in render_report(facts())


def test_numbers_of_the_run_are_on_the_page() -> None:
    text = Page(render_report(facts())).text
    for word in ("quickstart", "trm_nano", "160,353", "4 min 7 s", "n = 3 latent steps", "8 net calls", "seed 3"):
        assert word in text, word
    for word in ("90.0 %", "88.0 to 92.0 %", "2.10 times fewer net calls", "McNemar p = 0.04", "0.970", "1 → 2 (1)"):
        assert word in text, word
    for word in ("halting_collapse", "Parameters: 160,353", "python train.py experiment=quickstart"):
        assert word in text, word


def test_open_points_of_the_checklist_are_marked_as_open() -> None:
    page = Page(render_report(facts()))
    assert [one.get("class") for one in page.all("li")] == [None, "open"]


def test_what_is_missing_is_named_with_its_command() -> None:
    bare = facts(summary={}, metrics={}, checklist="", evaluations=[], shown=[], events=[], manifest={}, environment={})
    text = Page(render_report(bare)).text
    assert text.count(f"python evaluate.py run={bare.run}") >= 4
    assert f"titans-trm robustness {bare.run}" in text
    assert "running or killed" in text


def test_undefined_estimates_are_dashes_not_nan() -> None:
    steps = [StepResult(step=1, exact_accuracy=estimate(None), token_accuracy=estimate(0.5), share_halted=0.0)]
    values = {"metrics": {"exact_accuracy": estimate(None)}, "steps": steps, "halting_gain": None}
    page = render_report(facts(evaluations=[evaluation(**values)]))
    assert "nan" not in Page(page).text.lower().replace("trm_nano", "")
    assert "–" in Page(page).text


def test_a_failed_run_says_why() -> None:
    summary = {"status": "failed", "error": "the loss is not finite"}
    text = Page(render_report(facts(summary=summary))).text
    assert "failed" in text and "the loss is not finite" in text


# --- examples


def test_every_step_is_drawn_with_its_mistakes_and_the_step_of_the_halt() -> None:
    page = Page(draw_solving(solving(), SUDOKU))
    assert len(page.all("svg")) == 4  # the puzzle and three steps
    text = page.text
    assert "step 1 · 2 wrong" in text and "step 2 · 1 wrong" in text and "step 3 · solved" in text
    assert "62 % sure · halts here" in text and text.count("halts here") == 1
    kinds = [str(one.get("class")) for one in page.all("rect")]
    assert kinds.count("cell wrong") == 3 and kinds.count("changed") == 2
    assert kinds.count("box") == 4 * 4


def test_of_many_steps_the_first_the_last_and_that_of_the_halt_are_drawn() -> None:
    many = solving(answers=[solving().answers[0]] * 16, halting_logits=[-1.0] * 9 + [1.0] * 7)
    text = Page(draw_solving(many, SUDOKU)).text
    assert [int(word) for word in re.findall(r"step (\d+)", text)] == [1, 2, 3, 8, 10, 16]


def test_a_sequence_shows_its_scored_tokens() -> None:
    sequence = solving(inputs=[7, 8, 9], targets=[0, 8, 9], answers=[[7, 8, 7]], halting_logits=[float("nan")])
    page = Page(draw_solving(sequence, Drawing({7: "a", 8: "b"})))
    assert page.text.endswith("input a b 9 step 1 · 1 wrong b a")
    assert [one.get("class") for one in page.all("span")][-2:] == ["right", "wrong"]


def test_a_maze_shows_walls_path_and_ends() -> None:
    maze = Drawing({2: "#", 3: " ", 4: "S", 5: "G", 6: "o"}, (2, 3))
    example = solving(
        inputs=[4, 3, 5, 2, 2, 2], targets=[4, 6, 5, 2, 2, 2], answers=[[4, 6, 5, 2, 2, 2]], halting_logits=[1.0]
    )
    kinds = [str(one.get("class")) for one in Page(draw_solving(example, maze)).all("rect")]
    assert kinds[6:] == ["cell end", "cell path", "cell end", *["cell wall"] * 3]


# --- charts and tables


def test_a_chart_puts_points_where_they_belong() -> None:
    chart = Page(line_chart([Series("s", [0, 10], [0.0, 1.0], markers=True)], x_label="x", y_label="y", y_range=(0, 1)))
    first, last = [(float(str(one["cx"])), float(str(one["cy"]))) for one in chart.all("circle")]
    assert first == (46.0, 214.0) and last == (430.0, 8.0)  # the corners of the axes


def test_long_curves_are_thinned_and_smoothed_and_keep_their_mean() -> None:
    ys = [float(i % 2) for i in range(5000)]
    chart = line_chart([Series("s", list(range(5000)), ys)], x_label="x", y_label="y", y_range=(0, 1))
    smooth = re.findall(r'points="([^"]*)"', chart)[-1].split()
    assert len(smooth) <= 300
    heights = {float(point.split(",")[1]) for point in smooth}
    assert all(abs(height - 111.0) < 8.0 for height in heights)  # the middle


def test_charts_bear_single_points_constants_and_no_data() -> None:
    assert "no data" in line_chart([Series("s", [], [])], x_label="x", y_label="y")
    Page(line_chart([Series("s", [3], [2.0], low=[1.0], high=[3.0], markers=True)], x_label="x", y_label="y"))
    Page(line_chart([Series("s", [1, 2], [5.0, 5.0])], x_label="x", y_label="y", log=True))
    assert interval_bar(None, None, None) == ""


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (10, 150, [20, 40, 60, 80, 100, 120, 140]), (2, 2, [2])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_markup_is_made_only_by_tags() -> None:
    assert tag("b", "<i>", Html("<i></i>"), title='"') == '<b title="&quot;">&lt;i&gt;<i></i></b>'
    assert join(["<", Html("<br>")]) == "&lt;<br>"
    assert "&lt;" in table(["<"], [["a", 1]])


def test_many_metrics_stay_a_page_of_reasonable_size() -> None:
    page = render_report(
        facts(metrics=metrics(20_000), shown=[Shown(split="val", examples=[solving()] * 4, drawing=SUDOKU)])
    )
    assert len(page) < 400_000


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_a_browser_opens_it(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render_report(facts()), encoding="utf-8")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1240,800", "--enable-logging=stderr"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}"]
    assert CHROMIUM is not None
    opened = subprocess.run(
        [CHROMIUM, *flags, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert [one["id"] for one in Page(opened.stdout).all("section")] == SECTIONS
    assert ":CONSOLE(" not in opened.stderr, opened.stderr  # nothing refused, nothing failed to load
