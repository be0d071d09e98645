"""Profile a model: `python profile.py experiment=trm_25m` gives parameters, FLOPs, memory, latency and budgets.

The standard library has a module of this name, which `cProfile` (so `torch._dynamo` and `lightning`) imports.
Imported as `profile`, this file hands over to the standard library's.
"""

import sys

if __name__ == "profile":
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec
    from sysconfig import get_path

    spec = PathFinder.find_spec("profile", [get_path("stdlib")])
    assert spec is not None and spec.loader is not None, "the standard library has a module profile"
    sys.modules["profile"] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules["profile"])
else:
    from typing import Any

    import hydra
    from omegaconf import DictConfig

    from titans_trm.cli_entry import launch, run_job

    def task(config: Any) -> dict[str, Any]:
        """Profile, importing torch only now."""
        from titans_trm.tasks.profile import profile

        return profile(config)

    @hydra.main(version_base="1.3", config_path="conf", config_name="profile")
    def main(composed: DictConfig) -> dict[str, Any]:
        """Measure what the composed configuration says."""
        return run_job(composed, "profile", task)

    if __name__ == "__main__":
        launch(main, "profile")
