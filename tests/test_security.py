"""Files from elsewhere are data: nothing in them is executed, evaluated, or leads out of its folder."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from titans_trm.config import compose, load_config
from titans_trm.data.load import load_data
from titans_trm.errors import InputError
from titans_trm.training.config import RunConfig
from titans_trm.training.resume import find_resume_point
from titans_trm.training.run_folder import RunFolder


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.proof}",)


def run(folder: Path, **changes: Any) -> RunConfig:
    config = compose("train", ["experiment=quickstart", f"run_dir={folder}", "data.num_train=20", "data.num_val=4"])
    return dataclasses.replace(config, **changes)


def test_code_in_a_checkpoint_is_neither_run_nor_resumed(tmp_path: Path) -> None:
    folder, proof = RunFolder.create(tmp_path / "run"), tmp_path / "proof"
    folder.config.write_text(yaml.safe_dump(run(folder.path).to_dict()))
    torch.save({"state_dict": {}, "hyper_parameters": {"run": Malicious(proof)}}, folder.last_checkpoint)
    for resume in (str(folder.path), str(folder.last_checkpoint), "auto"):
        with pytest.raises(InputError, match=r"last.ckpt"):
            find_resume_point(run(folder.path, resume=resume))
    assert not proof.exists()
    torch.load(folder.last_checkpoint, weights_only=False)  # the attack itself works
    assert proof.exists()


def test_code_in_cached_data_is_refused_even_with_matching_checksums(tmp_path: Path) -> None:
    config, proof = run(tmp_path / "run").data, tmp_path / "proof"
    config = dataclasses.replace(config, cache_dir=str(tmp_path / "cache"), num_test=4)
    load_data(config)
    path = next((tmp_path / "cache").rglob("*inputs.npy"))
    np.save(path, np.array([Malicious(proof)], dtype=object), allow_pickle=True)
    manifest = json.loads((path.parent / "manifest.json").read_text())
    manifest["files"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    text = json.dumps(manifest)
    (path.parent / "manifest.json").write_text(text)
    (path.parent / ".complete").write_text(hashlib.sha256(text.encode()).hexdigest())
    with pytest.raises(InputError, match=rf"{path.name}: not an array of numbers .*remove the folder"):
        load_data(config)
    assert not proof.exists()
    np.load(path, allow_pickle=True)
    assert proof.exists()


def test_values_of_a_saved_configuration_are_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "7")
    values = run(tmp_path / "run").to_dict()
    values["tags"] = ["${oc.env:SECRET}"]
    values["callbacks"] = {"evil": {"_target_": "os.system", "command": f"touch {tmp_path / 'proof'}"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    config = load_config(tmp_path)
    assert config.tags == ["${oc.env:SECRET}"]
    assert config.callbacks["evil"]["_target_"] == "os.system" and not (tmp_path / "proof").exists()


def test_a_saved_configuration_cannot_build_objects(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"tags: !!python/object/apply:os.system ['touch {tmp_path / 'proof'}']\n")
    with pytest.raises(InputError, match="not a readable configuration"):
        load_config(tmp_path)
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("name", ["../elsewhere", "/tmp/elsewhere", "a/../../b", "~/x", "..\\elsewhere"])
def test_an_experiment_stays_below_runs(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="would lead out of runs/"):
        run(tmp_path / "run", experiment=name)


def test_a_folder_within_runs_is_a_name(tmp_path: Path) -> None:
    assert run(tmp_path / "run", experiment="ablation/no_memory").experiment == "ablation/no_memory"


@pytest.mark.parametrize("outside", ["../../elsewhere/best.ckpt", "/etc/passwd"])
def test_weights_are_taken_from_the_run_folder_whatever_its_summary_says(tmp_path: Path, outside: str) -> None:
    folder = RunFolder.create(tmp_path / "runs" / "one")
    folder.summary.write_text(json.dumps({"status": "stopped", "best_checkpoint": outside}))
    assert folder.best_checkpoint == folder.path / "checkpoints" / "best.ckpt"
    assert not folder.has_checkpoint
