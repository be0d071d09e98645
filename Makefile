# Aliases; everything here is one command without make too.
.PHONY: train test check format
train: ; uv run train.py experiment=quickstart
test: ; uv run pytest
check: ; .ci/run
format: ; uv run ruff check --fix . && uv run ruff format .
