"""Levels: what is present, what the environment asks for, what is refused."""

import platform

import pytest

from hyperion import errors
from hyperion._kernels import dispatch


def test_levels_are_in_order_and_start_with_the_portable_one(monkeypatch):
    monkeypatch.delenv(dispatch.ENVIRONMENT, raising=False)
    present = dispatch.levels()
    assert present[0] == "generic"
    assert list(present) == [name for name in dispatch.LEVELS if name in present]
    assert dispatch.default_level() == present[-1]
    assert [dispatch.level_name(i) for i in range(len(dispatch.LEVELS))] == list(dispatch.LEVELS)
    for number in (-1, len(dispatch.LEVELS)):
        with pytest.raises(errors.InvalidArgumentError):
            dispatch.level_name(number)


def test_levels_match_the_features():
    f, present = dispatch.features(), dispatch.levels()
    if "avx2" in present:
        assert f["avx2"] and f["fma"] and f["f16c"]
    if "avxvnni" in present:
        assert f["avx_vnni"]
    if "avx512" in present:
        assert all(f[name] for name in ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"))
    if "amx" in present:
        assert f["amx_tile"] and f["amx_int8"]
    assert f["neon"] == (platform.machine().lower() in ("arm64", "aarch64"))


@pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() != "x86_64", reason="reads Linux's list of flags"
)
def test_features_agree_with_the_operating_system():
    with open("/proc/cpuinfo", encoding="ascii") as file:
        flags = next(set(line.split(":")[1].split()) for line in file if line.startswith("flags"))
    for name, found in dispatch.features().items():
        if not name.startswith(("amx", "neon")):  # amx needs a permission as well
            assert found == (name in flags), name
        elif name.startswith("amx") and found:
            assert name in flags


def test_the_environment_sets_the_default(monkeypatch):
    for name in dispatch.levels():
        monkeypatch.setenv(dispatch.ENVIRONMENT, name)
        assert dispatch.default_level() == name
    monkeypatch.setenv(dispatch.ENVIRONMENT, "sse9")
    with pytest.raises(errors.InvalidArgumentError, match="sse9"):
        dispatch.default_level()


def test_an_absent_level_is_refused(monkeypatch):
    absent = [name for name in dispatch.LEVELS if name not in dispatch.levels()]
    if not absent:
        pytest.skip("this processor and build have every level")
    monkeypatch.setenv(dispatch.ENVIRONMENT, absent[0])
    with pytest.raises(errors.UnsupportedError, match="present are generic"):
        dispatch.default_level()
