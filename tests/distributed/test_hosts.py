"""Training on two hosts: the network of one process, and no rank that waits for a lost host."""

from __future__ import annotations

import time

import numpy as np
import pytest
import test_ranks
from hosts import Loopback, Namespaces
from test_mpi import PROGRAM, digest, needs_mpiexec, run, start, train

pytestmark = [needs_mpiexec, pytest.mark.slow]


@pytest.fixture(params=[Loopback, Namespaces])
def hosts(request, tmp_path):
    try:
        found = request.param(tmp_path)
    except OSError as error:
        # The other parameter needs no namespaces.
        pytest.skip(f"this machine does not allow network namespaces: {error}")
    yield found
    found.close()


def test_ranks_of_two_hosts_train_the_network_of_one_process(hosts, tmp_path):
    case = "augmentation"
    before = hosts.sent()
    code, _, err = run(hosts.command(PROGRAM, case, tmp_path / "found.npz"))
    assert code == 0, err
    network, _ = test_ranks.train(**test_ranks.long_enough(**test_ranks.CASES[case]))
    # The sums of two hosts: each sends at least half of the gradients in a step.
    assert hosts.sent() - before > test_ranks.STEPS * network.flat_gradients.nbytes / 2
    own = network.flat_parameters
    with np.load(tmp_path / "found.npz") as found:
        assert np.linalg.norm(found["weights"] - own) < 1e-12 * np.linalg.norm(own)


def test_a_host_that_is_cut_off_ends_the_others(hosts, tmp_path):
    settings = ["--epochs", "16", "--hidden", "64", "--reproducible-parts", "4"]
    code, _, err = run(train(1, *settings, "--run", tmp_path / "whole"))
    assert code == 0, err
    folder = tmp_path / "run"
    new = ["--checkpoint-every", "2 epochs", "--run", folder]
    process = start(hosts.command("-m", "xpnet.train", "--no-report", *settings, *new))
    while process.poll() is None and not list(folder.glob("checkpoint-*")):
        time.sleep(0.02)
    hosts.cut()
    assert len(hosts.cut_off()) >= 3  # two ranks, and their proxy
    began = time.monotonic()
    _, err = process.communicate(timeout=120)
    # Twelve seconds until a rank asks, six for the answer, three for the others' messages.
    assert time.monotonic() - began < 30
    errors = [line for line in err.splitlines() if line.startswith("xpnet: error:")]
    assert len(errors) == 1, err
    assert "ranks 2, 3 do not answer: exited, stopped or unreachable" in errors[0]
    assert process.returncode == 2
    # On the host that is left.
    code, _, err = run(train(2, "--resume", folder))
    assert code == 0, err
    assert digest(folder) == digest(tmp_path / "whole")
    hosts.mend()
    end = time.monotonic() + 60
    while hosts.cut_off() and time.monotonic() < end:
        time.sleep(0.1)
    assert not hosts.cut_off()
