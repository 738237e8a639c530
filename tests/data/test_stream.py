from itertools import islice

import numpy as np
import torch
from torch.utils.data import DataLoader

from mbgan.data.stream import BatchStream, turn

IMAGES = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1) * np.ones((1, 3, 4, 4), np.uint8)


def ids(batch):
    return batch[:, 0, 0, 0].tolist()


def test_every_image_comes_once_per_epoch_and_epochs_differ():
    batches = islice(BatchStream(IMAGES, batch_size=4, seed=0), 5)  # 20 images: two epochs
    order = [i for batch in batches for i in ids(batch)]
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:]


def test_stream_goes_on_where_it_was_left_also_with_another_batch_size():
    whole = [i for b in islice(BatchStream(IMAGES, 4, seed=0), 10) for i in ids(b)]
    rest = [i for b in islice(BatchStream(IMAGES, 3, seed=0, start=12), 5) for i in ids(b)]
    assert rest == whole[12:27]


def test_ranks_share_the_batch_of_one_process():
    whole = next(iter(BatchStream(IMAGES, 6, seed=0)))
    parts = [next(iter(BatchStream(IMAGES, 6, 0, rank=r, world_size=3))) for r in range(3)]
    assert torch.equal(torch.cat(parts), whole)


def test_worker_processes_change_nothing():
    alone = list(islice(BatchStream(IMAGES, 4, seed=0), 6))
    loader = DataLoader(BatchStream(IMAGES, 4, seed=0), batch_size=None, num_workers=2)
    assert all(torch.equal(a, b) for a, b in zip(alone, islice(loader, 6), strict=True))


def test_turn_gives_the_eight_poses_of_the_square():
    x = torch.arange(4).view(1, 1, 2, 2).expand(8, 1, 2, 2)
    poses = {tuple(image.flatten().tolist()) for image in turn(x, torch.arange(8))}
    square = torch.arange(4).view(2, 2)
    turned = [torch.rot90(square, k) for k in range(4)]
    wanted = {tuple(t.flatten().tolist()) for s in turned for t in (s, s.T)}
    assert poses == wanted


def test_d4_off_leaves_images_upright():
    image = np.arange(48, dtype=np.uint8).reshape(1, 3, 4, 4)
    batch = next(iter(BatchStream(image, 8, seed=0, d4=False)))
    assert (batch.numpy() == image).all()
    turned = next(iter(BatchStream(image, 8, seed=0)))
    assert not (turned.numpy() == image).all()
