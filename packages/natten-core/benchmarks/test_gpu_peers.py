"""The peers of the CUDA benchmark compute what our operator does; on the CPU, which they can do too."""

from __future__ import annotations

import pytest
import torch
from gpu import peers
from gpu.problems import Problem, others, problems

import natten_core

SMALL = [
    Problem("dilated", 2, 14, 2, 2, kernel=7, head_dim=16, dtype=torch.float32, device="cpu"),
    Problem("plain", 2, 12, 3, 1, kernel=5, head_dim=16, dtype=torch.float32, device="cpu"),
]


def ours(problem: Problem) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    qkv, rpb, grad = problem.inputs()
    rpb.requires_grad_()
    output = natten_core.na2d_qkvpacked(qkv, problem.kernel, dilation=problem.dilation, rpb=rpb)
    return peers.residue_major(output, problem.dilation), *torch.autograd.grad(output, rpb, grad), grad


@pytest.mark.parametrize("problem", SMALL, ids=lambda problem: problem.name)
def test_dense(problem: Problem) -> None:
    output, grad_rpb, _ = ours(problem)
    peer = peers.dense(problem)
    assert peer is not None
    theirs = peer.attend()
    flat = theirs.unflatten(0, (problem.batch, -1)).transpose(1, 2).flatten(2, 3)
    torch.testing.assert_close(flat, output, rtol=1e-4, atol=1e-5)
    found = torch.autograd.grad(theirs, peer.leaves, peer.grad)[3]
    torch.testing.assert_close(found, grad_rpb, rtol=1e-4, atol=1e-4)


def test_peers_for_two_axes_say_so() -> None:
    video = Problem("video", 1, 7, 2, kernel=5, dtype=torch.float32, device="cpu", frames=4, kernel_frames=3)
    qkv, rpb, grad = video.inputs()
    output = natten_core.na3d_qkvpacked(qkv, video.window, dilation=video.dilations, rpb=rpb)
    assert output.shape == grad.shape
    assert video.flops("forward") == 4 * 32 * 2 * (4 * 7 * 7) * (3 * 5 * 5)
    for peer in (peers.dense, peers.flex):
        with pytest.raises(NotImplementedError, match="two axes"):
            peer(video)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("problem", SMALL, ids=lambda problem: problem.name)
def test_flex(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    output, _, _ = ours(problem)
    peer = peers.flex(problem)
    for leaf in peer.leaves:
        leaf.requires_grad_(False)
    with torch.no_grad():
        torch.testing.assert_close(peer.attend(), output, rtol=1e-4, atol=1e-5)


def test_every_problem_is_one() -> None:
    for problem in [*problems([256], ["bf16"]), *others(["bf16"])]:
        assert problem.length % problem.dilation == 0
        assert problem.kernel * problem.dilation <= problem.length
        assert problem.kernel_frames <= max(problem.frames, 1)
        assert problem.floor_us("backward", 1000.0) == 2 * problem.floor_us("forward", 1000.0) > 0
