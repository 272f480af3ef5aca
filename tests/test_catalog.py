"""What the catalogue lists; how it is brought is tested in test_fetching.py."""

import subprocess
import sys

import pytest

from embedsvc.catalog import DATA, MODELS, Member


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "a\\b"])
def test_no_member_can_climb_out(name):
    with pytest.raises(AssertionError):
        Member(name, 1, "0" * 64)


@pytest.mark.parametrize("named", [*MODELS.values(), *DATA.values()], ids=lambda named: named.name)
def test_every_entry_pins_its_source_and_states_its_licence(named):
    name, _, version = named.source.distribution.partition("==")
    assert name
    assert version
    assert named.licence
    for digest in (named.source.sha256, *(member.sha256 for member in named.files)):
        assert len(bytes.fromhex(digest)) == 32
    assert sum(member.size for member in named.source.members) > 0


def test_importing_the_catalogue_loads_nothing_heavy():
    code = "import sys, embedsvc.catalog; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"tensorflow", "keras", "tf_keras", "h5py", "pyarrow", "pandas", "filelock"} & set(loaded)
