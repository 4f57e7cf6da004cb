"""What `engine.py` measures against: FedAvg as one would write it in plain PyTorch.

Two processes of one thread, each of which trains its half of the clients, one after the other: load
the weights, take Adam steps, add the result to a weighted sum. Nothing of this project is used;
`engine.py` checks that the U-Net computes what `spire_core`'s does, number by number.
"""

import multiprocessing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

State = dict[str, Tensor]


@dataclass(frozen=True)
class Work:
    """One round: so many clients of 100 images 16 x 16, each taking `steps` batches."""

    width: int
    num_clients: int
    steps: int
    images_per_client: int = 100
    batch_size: int = 32
    lr: float = 1e-3


def norm(channels: int) -> nn.GroupNorm:
    """Normalise in groups of 3 channels at least, 32 groups at most."""
    groups = [2**i for i in range(6) if channels % 2**i == 0 and channels >= 3 * 2**i]
    return nn.GroupNorm(groups[-1], channels)


class ResBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, cond_dim: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(c_in), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.cond = nn.Linear(cond_dim, 2 * c_out)
        self.norm2, self.conv2 = norm(c_out), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.cond(cond)[:, :, None, None].chunk(2, dim=1)
        return self.skip(x) + self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))


class Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.qkv = norm(channels), nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).contiguous()[:, None]
        h = F.scaled_dot_product_attention(*qkv.chunk(3, dim=-1))
        return x + self.out(h.transpose(-1, -2).reshape(x.shape))


class Level(nn.Module):
    def __init__(self, c_in: int, c_out: int, cond_dim: int, attends: bool) -> None:
        super().__init__()
        self.res = ResBlock(c_in, c_out, cond_dim)
        self.attend = Attention(c_out) if attends else nn.Identity()

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        return self.attend(self.res(x, cond))


class PlainUNet(nn.Module):
    """Three levels of `width` times 1, 2, 2 channels; attention at the second and in the middle."""

    def __init__(self, width: int) -> None:
        super().__init__()
        w, v = width, 4 * width
        self.width = width
        self.time_mlp = nn.Sequential(nn.Linear(w, v), nn.SiLU(), nn.Linear(v, v))
        self.conv_in = nn.Conv2d(1, w, 3, padding=1)
        downs = [(w, w, False), (w, 2 * w, True), (2 * w, 2 * w, False)]
        self.down = nn.ModuleList(nn.ModuleList([Level(i, o, v, a)]) for i, o, a in downs)
        self.downsample = nn.ModuleList(nn.Conv2d(c, c, 3, stride=2, padding=1) for c in (w, 2 * w))
        self.middle = nn.ModuleList([Level(2 * w, 2 * w, v, True), Level(2 * w, 2 * w, v, False)])
        ups = [[(4, 2), (4, 2)], [(4, 2), (3, 2)], [(3, 1), (2, 1)]]
        self.up = nn.ModuleList(
            nn.ModuleList(Level(i * w, o * w, v, level == 1) for i, o in blocks)
            for level, blocks in enumerate(ups)
        )
        self.upsample = nn.ModuleList(nn.Conv2d(2 * w, 2 * w, 3, padding=1) for _ in range(2))
        self.norm_out, self.conv_out = norm(w), nn.Conv2d(w, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        half = self.width // 2
        angles = t.float()[:, None] * torch.exp(-torch.arange(half) * (9.210340371976184 / half))
        cond = F.silu(self.time_mlp(torch.cat([angles.sin(), angles.cos()], dim=1)))
        h = self.conv_in(x)
        skips = [h]
        for level, blocks in enumerate(self.down):
            for block in blocks:  # type: ignore[union-attr]
                h = block(h, cond)
                skips.append(h)
            if level < 2:
                h = self.downsample[level](h)
                skips.append(h)
        for block in self.middle:
            h = block(h, cond)
        for level, blocks in enumerate(self.up):
            for block in blocks:  # type: ignore[union-attr]
                h = block(torch.cat([h, skips.pop()], dim=1), cond)
            if level < 2:
                h = self.upsample[level](F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.conv_out(F.silu(self.norm_out(h)))


def train_clients(work: Work, ids: list[int], images: Tensor, start: State, fused: bool) -> State:
    """Return the sum of these clients' weights after training, times their numbers of images."""
    net, total = PlainUNet(work.width), {k: torch.zeros_like(p) for k, p in start.items()}
    betas = torch.linspace(1e-4, 0.02, 1000)
    alpha_bar = torch.cumprod(1 - betas, dim=0)
    for client_id in ids:
        net.load_state_dict(start)
        optimizer = torch.optim.Adam(net.parameters(), lr=work.lr, fused=fused)
        own = images[client_id]
        batches: list[Tensor] = []
        while len(batches) < work.steps:
            batches += torch.randperm(len(own)).split(work.batch_size)
        for batch in batches[: work.steps]:
            x0 = own[batch].float() / 127.5 - 1
            t, eps = torch.randint(0, 1000, (len(x0),)), torch.randn(x0.shape)
            signal = alpha_bar[t][:, None, None, None]
            xt = signal.sqrt() * x0 + (1 - signal).sqrt() * eps
            v = signal.sqrt() * eps - (1 - signal).sqrt() * x0
            loss = F.mse_loss(net(xt, t), v)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for name, value in net.state_dict().items():
            total[name] += len(own) * value
    return total


def _serve(pipe: Connection, num_clients: int, images_per_client: int) -> None:
    torch.set_num_threads(1)
    shape = (num_clients, images_per_client, 1, 16, 16)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    pipe.send("ready")
    while (task := pipe.recv()) is not None:
        work, ids, start, fused = task
        total = train_clients(
            work, ids, images, {k: torch.from_numpy(p) for k, p in start.items()}, fused
        )
        pipe.send({k: p.numpy() for k, p in total.items()})


class PlainLoop:
    """Two processes that wait for rounds."""

    def __init__(self, num_clients: int, images_per_client: int = 100) -> None:
        context = multiprocessing.get_context("spawn")
        self.workers: list[tuple[Any, Connection]] = []
        for _ in range(2):
            mine, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, num_clients, images_per_client), daemon=True
            )
            process.start()
            self.workers.append((process, mine))
        for _, pipe in self.workers:
            pipe.recv()

    @property
    def pids(self) -> list[int]:
        return [process.pid for process, _ in self.workers]

    def run_round(self, work: Work, start: State, fused: bool = False) -> State:
        """Return the weighted mean of all clients' weights."""
        sent = {k: p.detach().numpy() for k, p in start.items()}
        for i, (_, pipe) in enumerate(self.workers):
            pipe.send((work, list(range(i, work.num_clients, 2)), sent, fused))
        totals = [pipe.recv() for _, pipe in self.workers]
        count = work.num_clients * work.images_per_client
        return {k: torch.from_numpy((totals[0][k] + totals[1][k]) / count) for k in sent}

    def close(self) -> None:
        for process, pipe in self.workers:
            pipe.send(None)
            process.join()


def main() -> None:
    """Run one round and end: its time from start to end is the reference's start-up."""
    work = Work(width=8, num_clients=20, steps=4)
    loop = PlainLoop(work.num_clients)
    loop.run_round(work, dict(PlainUNet(work.width).state_dict()))
    loop.close()


if __name__ == "__main__":
    main()
