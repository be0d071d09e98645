"""The documents say what is: code blocks run, links lead somewhere, commands compose, the table of sizes is counted.

`python tests/test_docs.py` writes the table into docs/architecture.md.
"""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from titans_trm.config import compose, config_dir
from titans_trm.data.sudoku.task import SudokuTask
from titans_trm.errors import InputError
from titans_trm.models.titans_trm import TitansTRM

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
BEGIN, END = "<!-- parameters: begin -->\n", "<!-- parameters: end -->"
NUMBERED = [
    pytest.param(block, id=f"{document.name}-{number}")
    for document in DOCUMENTS
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.S))
]
COMMANDS = [
    pytest.param(command.strip(), id=f"{document.name}: {command.strip()}")
    for document in DOCUMENTS
    for command in re.findall(
        r"(?:^|`| )(?:python|uv run) ((?:train|evaluate|profile)\.py[^`\n#]*)",
        document.read_text(encoding="utf-8"),
        re.M,
    )
]


def preset_table() -> str:
    """Return the presets in numbers, each built for 9x9 Sudoku."""
    spec = SudokuTask(9).spec
    lines = ["| preset | D | blocks | SwiGLU | memory heads | n, T, N_sup | parameters |", "|---" * 7 + "|"]
    for file in sorted((config_dir() / "model").glob("*.yaml")):
        settings = compose("train", [f"model={file.stem}", "data=sudoku_9x9"]).model
        config = settings.build(vocab_size=spec.vocab_size, seq_len=spec.seq_len)
        recursion, backbone = config.recursion, config.backbone
        loops = f"{recursion.num_latent_steps}, {recursion.num_recursions}, {config.halting.max_supervision_steps}"
        heads = str(config.memory.num_heads) if config.has_memory else "no memory"
        cells = (f"`{file.stem}`", config.width, backbone.num_blocks, backbone.mlp_hidden, heads, loops)
        lines.append(f"| {' | '.join(map(str, cells))} | {TitansTRM(config).num_params():,} |")
    return "\n".join(lines) + "\n"


def test_the_table_of_presets_is_counted() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0] == preset_table(), "run: python tests/test_docs.py"


@pytest.mark.parametrize("block", NUMBERED)
def test_code_blocks_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TITANS_TRM_DATA", str(tmp_path))
    exec(compile(block, "code block", "exec"), {"__name__": "document"})


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_compose(command: str) -> None:
    script, *words = shlex.split(command)
    if "--config-dir" in words:
        pytest.skip("needs a folder of the reader's.")
    if "hydra/launcher=ray" in words and importlib.util.find_spec("hydra_plugins.hydra_ray_launcher") is None:
        pytest.skip("needs the extra ray.")
    overrides = [word for word in words if not word.startswith("-") and word != "job"]
    if "-m" in words:
        parsed = OverridesParser.create().parse_overrides(overrides)
        ranges = {one.input_line for one in parsed if one.is_sweep_override() and not one.is_choice_sweep()}
        overrides = [word.partition(",")[0] for word in overrides if word not in ranges]
    compose(script.removesuffix(".py"), overrides)  # type: ignore[call-overload]


def test_commands_are_found_and_a_wrong_one_would_fail() -> None:
    assert len(COMMANDS) > 15
    with pytest.raises(InputError):
        test_commands_compose("train.py experiment=trm_26m")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_to_files(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (document.parent / target.partition("#")[0]).exists(), f"{document.name}: {target}"


def test_every_experiment_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for file in (config_dir() / "experiment").glob("*.yaml"):
        command = file.read_text(encoding="utf-8").splitlines()[1].removeprefix("# ")
        assert f"`{command}`" in text, file.name


def test_code_named_in_the_map_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("## One supervision step")[0]
    files = re.findall(r"`((?:models|losses|training|tests)/[\w/]+\.py)`", text)
    assert len(files) > 8
    for name in files:
        assert (ROOT / name).is_file() or (ROOT / "titans_trm" / name).is_file(), name


def test_versions_agree() -> None:
    import titans_trm

    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {titans_trm.__version__}\n" in citation


if __name__ == "__main__":
    path = ROOT / "docs" / "architecture.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    path.write_text(before + BEGIN + preset_table() + END + rest.partition(END)[2], encoding="utf-8")
