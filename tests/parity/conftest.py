"""The comparisons with OpenCLIP need it; where pip does not install it they are left out, aloud."""

from importlib.util import find_spec


_ORACLE = find_spec("open_clip") is not None
collect_ignore_glob = [] if _ORACLE else ["test_*.py"]


def pytest_terminal_summary(terminalreporter):
    if not _ORACLE:
        terminalreporter.write_line(
            "tests/parity was left out: open_clip_torch, installed with Python 3.11, is missing."
        )
