"""What a result says about the machine it came from."""

from __future__ import annotations

import platform

import pytest

from mml_plugin.experiment.environment import processor

CORE = "processor\t: {}\nvendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: {}\nstepping\t: 1\n"


@pytest.mark.parametrize(
    ("told", "name"),
    [
        (CORE.format(0, "AMD EPYC") + CORE.format(1, "AMD EPYC"), "AMD EPYC (family 26, model 2)"),
        (CORE.format(0, "AMD EPYC 9B14"), "AMD EPYC 9B14"),
        ("processor\t: 0\nmodel name\t: Some Core\n", "Some Core"),
        ("processor\t: 0\nBogoMIPS\t: 50.00\n", platform.machine()),
    ],
)
def test_processor_is_named_so_that_generations_differ(tmp_path, told, name):
    (tmp_path / "cpuinfo").write_text(told)
    assert processor(tmp_path / "cpuinfo") == name


def test_processor_where_the_system_tells_nothing(tmp_path):
    assert processor(tmp_path / "absent") == (platform.processor() or platform.machine())
