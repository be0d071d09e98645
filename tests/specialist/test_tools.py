"""Tools: a skeleton whose tests pass, checks that find planted bugs, an architecture judged before it is trained."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from titans_trm.errors import InputError
from titans_trm.models.config import BackboneConfig, HaltingConfig, MemoryConfig, RecursionConfig, TitansTRMConfig
from titans_trm.specialist.architecture import validate_architecture
from titans_trm.specialist.model_checks import CHECKS, Finding, ModelUnderTest, check_model
from titans_trm.specialist.texts import REFERENCES, prompt, read
from titans_trm.specialist.tools import add_tests, benchmark_model, create_model_skeleton, write_files

TOKENS = torch.randint(0, 8, (3, 10), generator=torch.Generator().manual_seed(0))
SMALL = {
    "width": 16,
    "backbone": BackboneConfig(num_blocks=1, num_heads=2, mlp_hidden=24, num_persistent_tokens=1),
    "memory": MemoryConfig(num_heads=2, expansion=2, chunk_size=4),
    "recursion": RecursionConfig(num_latent_steps=1, num_recursions=1),
    "halting": HaltingConfig(max_supervision_steps=2),
}


class Plain(nn.Module):
    """A model without a fault; the others break it in one place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(8, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.mlp(self.embedding(tokens))


class Transposed(Plain):
    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens).transpose(0, 1)


class DeadPart(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(4, 4)


class Leaky(Plain):
    def forward(self, tokens: Tensor) -> Tensor:
        logits = super().forward(tokens)
        return logits - logits.mean(0)


class Future(Plain):
    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        return self.mlp(x + x.mean(1, keepdim=True))


class Remembering(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, tokens: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(tokens) + self.calls


class HiddenWeight(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.scale = 1.0

    def __deepcopy__(self, memo: dict) -> "HiddenWeight":
        other = HiddenWeight()
        other.load_state_dict(self.state_dict())
        other.scale = 2.0  # what a fresh object would not know
        return other

    def forward(self, tokens: Tensor) -> Tensor:
        return self.scale * super().forward(tokens)


class Detached(Plain):
    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens).detach() + 0.0 * super().forward(tokens)


PLANTED = {
    "shapes": Transposed,
    "gradients": DeadPart,
    "batch independence": Leaky,
    "causality": Future,
    "determinism": Remembering,
    "save and load": HiddenWeight,
    "overfits one batch": Detached,
}


def found(model: nn.Module, causal: bool = True) -> dict[str, Finding]:
    return {finding.check: finding for finding in check_model(ModelUnderTest(model, TOKENS, causal=causal))}


def test_a_model_without_a_fault_passes_every_check() -> None:
    assert all(finding.ok for finding in found(Plain()).values())
    assert set(PLANTED) == set(found(Plain())) and len(CHECKS) == len(PLANTED)


@pytest.mark.parametrize("check", PLANTED)
def test_each_check_finds_the_bug_it_is_for(check: str) -> None:
    assert found(PLANTED[check]())[check].ok is False


def test_a_check_that_crashes_is_a_finding() -> None:
    class Crashing(Plain):
        def forward(self, tokens: Tensor) -> Tensor:
            raise RuntimeError("no such axis")

    assert all(f.ok is not True and "no such axis" in f.message for f in found(Crashing()).values() if f.ok is False)
    assert found(Plain(), causal=False)["causality"].ok is None


def test_our_own_model_passes_for_grids_and_for_text() -> None:
    for causal in (False, True):
        config = TitansTRMConfig(vocab_size=5, seq_len=6, causal=causal, **SMALL)  # type: ignore[arg-type]
        findings = check_model(ModelUnderTest.titans_trm(config))
        assert all(finding.ok is not False for finding in findings), findings
        assert next(finding for finding in findings if finding.check == "causality").ok is (True if causal else None)


def test_a_skeleton_imports_trains_and_passes_its_own_tests(tmp_path: Path) -> None:
    files = write_files(create_model_skeleton("TinyMemory"), tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in files] == [
        "tiny_memory.py", "train_tiny_memory.py", "tiny_memory.yaml", "tests/test_tiny_memory.py",
    ]  # fmt: skip
    code = "import train_tiny_memory as t; losses = t.train(60); assert losses[-1] < losses[0] / 2, losses"
    code += (
        "; import pytest; raise SystemExit(pytest.main(['-q', '-c', 'none.ini', '-p', 'no:cacheprovider', 'tests']))"
    )
    (tmp_path / "none.ini").write_text("[pytest]\n")
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0 and "7 passed" in result.stdout, result.stdout + result.stderr


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text("mine")
    with pytest.raises(InputError, match=r"tiny.yaml exists already"):
        write_files(create_model_skeleton("Tiny"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize("name", ["", "42", "class", "äöü"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="makes no name of a module"):
        create_model_skeleton(name)


def test_tests_for_a_model_that_exists() -> None:
    file = add_tests("my.package.model:Model")
    assert file.path == "tests/test_model.py" and '"my.package.model:Model"' in file.text
    with pytest.raises(InputError, match="is not module:Class"):
        add_tests("model.py")


@pytest.mark.parametrize("target", ["no_such_module:Model", "torch:no_such_name", "torch.nn:Linear", "builtins:dict"])
def test_a_target_that_cannot_be_made_is_an_error(target: str) -> None:
    with pytest.raises(InputError):
        ModelUnderTest.load(target)


def test_a_benchmark_counts_and_times() -> None:
    model = Plain().train()
    measured = benchmark_model(model, lambda: model(TOKENS), repeats=3)
    assert measured.parameters == sum(p.numel() for p in model.parameters())
    assert 0.0 < measured.latency_ms <= measured.latency_p95_ms and measured.repeats == 3
    assert model.training and measured.to_dict()["peak_bytes"] is None


def test_the_specification_of_58_million_is_not_25() -> None:
    values = {"vocab_size": 32768, "seq_len": 128, "width": 512, "causal": True, "backbone": {"num_blocks": 8}}
    findings = {finding.check: finding for finding in validate_architecture(values, claimed_parameters=25_000_000)}
    assert findings["configuration"].ok and findings["parameters"].ok is False
    assert "25,000,000 claimed" in findings["parameters"].message


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"widht": 64}, "configuration"),
        ({"width": 65}, "configuration"),
        ({"vocab_size": 500_000}, "embedding share"),
        ({"backbone": {"num_heads": 16}}, "head width"),
        ({"backbone": {"window": 81}}, "window"),
        ({"memory": {"conv_width": 2}}, "unused keys"),
        ({"backbone": {"gate": "attention_only"}, "memory": {"depth": 1}}, "unused keys"),
        ({"backbone": {"gate": "convex", "gate_activation": "silu"}}, "unused keys"),
    ],
)
def test_what_is_wrong_with_an_architecture_is_found(change: dict, check: str) -> None:
    values = {"vocab_size": 11, "seq_len": 81, "width": 64} | change
    findings = {finding.check: finding for finding in validate_architecture(values, memory_bytes=10**10)}
    assert findings[check].ok is False, findings


def test_a_sound_architecture_has_nothing_found() -> None:
    for backbone in ({"window": 9}, {"gate": "memory_only"}):
        values = {"vocab_size": 11, "seq_len": 81, "width": 128, "backbone": backbone}
        assert all(finding.ok for finding in validate_architecture(values, memory_bytes=6 * 10**9))


def test_texts_are_there_and_an_unknown_one_is_an_error() -> None:
    assert all(read(f"references/{name}.md").startswith("# ") for name in REFERENCES)
    assert "worktree" in prompt(write=True) and "worktree" not in prompt()
    with pytest.raises(InputError, match="nothing.md is not a resource"):
        read("nothing.md")
