import pytest

from leandet.cli.quantities import duration, milliseconds, size_in_bytes
from leandet.errors import UserError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("90m", 5400), ("90 min", 5400), ("1h30m", 5400), ("1 h 30 min", 5400), ("45s", 45), ("1.5h", 5400)],
)
def test_times_to_work(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "-2h", "0m", "2d", "2h x", "1e3s", "nan h", "2 3h"])
def test_what_is_no_time_to_work(text):
    with pytest.raises(UserError, match="--time must be a time above 0 with its unit"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "count"), [("1MB", 10**6), ("800kB", 800_000), ("1.5 MB", 1_500_000), ("2GB", 2 * 10**9), ("9B", 9)]
)
def test_sizes(text, count):
    assert size_in_bytes(text) == count


@pytest.mark.parametrize("text", ["", "1", "MB", "0MB", "-1MB", "1mb", "1 M", "infMB"])
def test_what_is_no_size(text):
    with pytest.raises(UserError, match="--max-size must be a size above 0 with its unit"):
        size_in_bytes(text)


@pytest.mark.parametrize(("text", "ms"), [("8ms", 8), ("8", 8), ("7.5 ms", 7.5), ("0.01s", 10)])
def test_budgets(text, ms):
    assert milliseconds(text) == pytest.approx(ms)
