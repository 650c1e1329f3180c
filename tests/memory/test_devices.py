import torch

from limner.memory import DefaultSettings
from limner.memory.devices import _cgroup_available, compute_device, free_memory, total_memory


def test_the_cpu_flag_wins():
    assert compute_device(DefaultSettings(cpu=True)).type == "cpu"


def test_free_memory_is_some_of_the_total():
    cpu = torch.device("cpu")
    assert 0 < free_memory(cpu) <= total_memory(cpu)


def test_a_containers_limit_counts_and_its_file_pages_are_free(tmp_path):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    assert _cgroup_available(tmp_path) == 300
    (tmp_path / "memory.stat").write_text("anon 400\ninactive_file 200\nactive_file 100\n")
    assert _cgroup_available(tmp_path) == 600


def test_no_limit_is_no_limit(tmp_path):
    assert _cgroup_available(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("700\n")
    assert _cgroup_available(tmp_path) is None
