import numpy as np
import pytest

from titans_trm.data.near_duplicates import WindowIndex


def noise(length: int, seed: int) -> bytes:
    return np.random.default_rng(seed).integers(32, 127, length, dtype=np.uint8).tobytes()


def naive(reference: bytes, text: bytes, width: int) -> np.ndarray:
    windows = {reference[i : i + width] for i in range(len(reference) - width + 1)}
    covered = np.zeros(len(text), dtype=bool)
    for i in range(len(text) - width + 1):
        if text[i : i + width] in windows:
            covered[i : i + width] = True
    return covered


def test_a_shifted_paragraph_is_found_where_it_lies_and_nothing_else():
    paragraph = noise(300, 1)
    reference = noise(1003, 2) + paragraph + noise(500, 3)
    text = noise(77, 4) + paragraph + noise(2000, 5)
    found = WindowIndex(reference, width=50).shared(text)
    assert found.passages == [(77, 1003, 300)]
    assert found.share == 300 / len(text)
    assert not WindowIndex(noise(1000, 6)).shared(text).covered.any()


def test_coverage_equals_its_definition_on_text_full_of_repeats():
    generator = np.random.default_rng(0)
    reference, text = (generator.integers(97, 99, 400, dtype=np.uint8).tobytes() for _ in range(2))
    for width in (1, 5, 9, 12):
        assert (WindowIndex(reference, width=width).shared(text).covered == naive(reference, text, width)).all()


def test_a_passage_one_byte_short_of_the_window_is_no_leak():
    paragraph = noise(49, 1)
    found = WindowIndex(noise(100, 2) + paragraph + noise(100, 3), width=50).shared(noise(10, 4) + paragraph)
    assert not found.covered.any()
    assert found.passages == []


@pytest.mark.parametrize(("reference", "text"), [(b"", b"abc"), (b"abc", b""), (b"ab", b"ab")])
def test_texts_shorter_than_the_window_share_nothing(reference, text):
    found = WindowIndex(reference, width=3).shared(text)
    assert found.share == 0.0
    assert len(found.covered) == len(text)


def test_a_window_of_nothing_is_refused():
    with pytest.raises(ValueError, match="width=0"):
        WindowIndex(b"abc", width=0)
