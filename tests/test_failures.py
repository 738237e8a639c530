"""What the machine does to a run is told in one sentence with a way out."""

import errno

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from mbgan.failures import in_one_sentence, lost_a_rank, silent_ranks, writing_to

WORDS = {  # as PyTorch 2.14 writes them
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 99 bytes. Error code 12 (Cannot allocate memory)": "lower batch_size",
    "CUDA out of memory. Tried to allocate 20.00 MiB": "lower batch_size",
    "DataLoader worker (pid 77) is killed by signal: Killed. ": "data.num_workers=0",
    "DataLoader worker (pid(s) 7, 8) exited unexpectedly": "data.num_workers=0",
    "upsample_bilinear2d_backward_out_cuda does not have a deterministic implementation, but you "
    "set 'torch.use_deterministic_algorithms(True)'.": "trainer.deterministic=warn",
}


@pytest.mark.parametrize("said", WORDS)
def test_what_the_machine_caused_comes_with_the_way_out_and_its_own_words(said):
    with pytest.raises(ValueError, match=WORDS[said]) as error, in_one_sentence():
        raise RuntimeError(said + "\nException raised from somewhere (most recent call first):")
    assert said.strip() in str(error.value)
    assert "\n" not in str(error.value)


def test_what_the_machine_caused_while_a_network_was_built_is_told_too():
    """Hydra, which builds networks, has words of its own for it."""
    with pytest.raises(ValueError, match="lower batch_size") as error, in_one_sentence():
        instantiate({"_target_": "torch.nn.Linear", "in_features": 2**30, "out_features": 2**30})
    assert "you tried to allocate 4611686018427387904 bytes" in str(error.value)
    assert "Error in call to target" not in str(error.value)


def test_a_mistake_in_what_is_built_stays_one():
    with pytest.raises(InstantiationException, match="out of memory"), in_one_sentence():
        instantiate({"_target_": "builtins.float", "_args_": ["out of memory"]})


def test_python_out_of_memory_is_told_too():
    with pytest.raises(ValueError, match="lower batch_size"), in_one_sentence():
        raise MemoryError


def test_other_errors_are_not_hidden():
    with pytest.raises(RuntimeError, match="shapes"), in_one_sentence():
        raise RuntimeError("shapes do not match")


@pytest.mark.parametrize(
    "said",
    [
        "[../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 10000ms "
        "for recv operation to complete",
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:9",
    ],
)
def test_a_lost_rank_is_known_by_gloos_words(said):
    assert lost_a_rank(RuntimeError(said))
    assert not lost_a_rank(OSError(said))
    assert not lost_a_rank(RuntimeError("shapes do not match"))


def test_ranks_that_leave_no_sign_are_named_and_no_sign_stays(tmp_path):
    (tmp_path / ".rank2.alive").touch()
    assert silent_ranks(tmp_path, rank=0, world_size=4, wait_s=0) == [1, 3]
    assert [path.name for path in tmp_path.iterdir()] == [".rank2.alive"]


def test_an_error_of_the_disk_says_where_and_how_to_go_on(tmp_path):
    said = rf"into {tmp_path} \(No space.*resume={tmp_path}"
    with pytest.raises(OSError, match=said), writing_to(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match=r"^.Errno 2. nothing$"), writing_to(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "nothing")
    with pytest.raises(OSError, match=r"^.Errno 28. ours$"), writing_to(tmp_path):
        raise OSError(errno.ENOSPC, "ours") from OSError()
