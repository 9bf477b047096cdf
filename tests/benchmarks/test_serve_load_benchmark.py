"""The load benchmark runs and counts, on a tiny model."""

import pytest
from chat.conftest import bundles  # noqa: F401  (a fixture)

from benchmarks.serve_load import COLUMNS, main


def test_a_small_load(bundles, capsys):  # noqa: F811
    options = ["--clients", "4", "--alone", "2", "--seconds", "1", "--tokens", "8", "--disconnects", "5"]
    main([str(bundles["causal"]), *options])
    header, alone, together, left, memory = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == list(COLUMNS[:2])
    assert alone.split()[:2] == ["1", "2"]
    assert together.split()[:2] == ["32", "4"]
    for line in (alone, together):
        answered, refused, retries, errors = line.split()[2:6]
        assert int(answered) > 0
        assert (float(refused), int(retries), int(errors)) == (0.0, 0, 0)
    assert float(together.split()[-1]) > 0
    assert left == "5 clients left in mid-answer; 0 errors; afterwards {'vglm_running': 0.0, 'vglm_waiting': 0.0}"
    assert memory.startswith("MiB ")


@pytest.mark.slow
def test_a_busy_server_is_asked_again(bundles, capsys):  # noqa: F811
    """One answer at a time and one that waits: the others come again, and all are answered."""
    options = ["--clients", "6", "--alone", "--rows", "1", "--queue", "1", "--seconds", "1", "--tokens", "4"]
    main([str(bundles["causal"]), *options])
    _, line = capsys.readouterr().out.splitlines()
    answered, refused, retries, errors = line.split()[2:6]
    assert int(answered) >= 6
    assert float(refused) > 0
    assert int(retries) > 0
    assert int(errors) == 0
