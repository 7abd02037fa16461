"""Segmentations made of queries, against loops over pixels; `nox -s dense_clients` has the models that give queries."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.testing import assert_close

from dinat_zoo import dense
from dinat_zoo.dense import mask2former, oneformer
from dinat_zoo.dense.queries import Panoptic, Queries, look

THINGS = (True, False, True, False)
PADDED, SIZE, ORIGINAL = (32, 64), (30, 40), (15, 20)


@pytest.fixture
def found() -> Queries:
    """Of 40 queries, in more than two chunks, few of which are sure of a class and a place."""
    torch.manual_seed(13)
    classes = torch.randn(40, len(THINGS) + 1, dtype=torch.float64)
    classes[::3] *= 6
    masks = 4 * interpolate(torch.randn(1, 40, 3, 5, dtype=torch.float64), size=(8, 16), mode="bicubic")[0] - 1
    return Queries(classes, masks, PADDED, SIZE, ORIGINAL)


def at_original_size(found: Queries) -> Tensor:
    """Logits of every mask at every pixel: first of the padded image, then of the image in it, then of the original."""
    masks = interpolate(found.masks[None], size=PADDED, mode="bilinear", align_corners=False)
    return interpolate(masks[..., : SIZE[0], : SIZE[1]], size=ORIGINAL, mode="bilinear", align_corners=False)[0]


def softmax(logits: list[float]) -> list[float]:
    total = sum(math.exp(x) for x in logits)
    return [math.exp(x) / total for x in logits]


def test_semantic(found: Queries) -> None:
    masks, weights = at_original_size(found).tolist(), [softmax(row) for row in found.classes.tolist()]
    expected = torch.zeros(len(THINGS), *ORIGINAL, dtype=torch.float64)
    for weight, mask in zip(weights, masks, strict=True):
        for y in range(ORIGINAL[0]):
            for x in range(ORIGINAL[1]):
                for label in range(len(THINGS)):
                    expected[label, y, x] += weight[label] / (1 + math.exp(-mask[y][x]))
    assert_close(found.semantic(), expected)
    late = found.semantic(late=True)
    assert_close(late, expected, atol=0.5, rtol=0.1)  # resized after the sigmoid: alike, and not the same
    assert not torch.allclose(late, expected, atol=1e-3)
    whole = Queries(found.classes, found.masks, (8, 16), (8, 16), (8, 16))  # where nothing is resized, they are
    assert_close(whole.semantic(), whole.semantic(late=True))


@pytest.mark.parametrize("things", [None, THINGS])
def test_instances(found: Queries, things: tuple[bool, ...] | None) -> None:
    masks = at_original_size(found)
    pairs = []
    for query, logits in enumerate(found.classes.tolist()):
        pairs += [(score, query, label) for label, score in enumerate(softmax(logits)[:-1])]
    expected = []
    for score, query, label in sorted(pairs, reverse=True)[:25]:
        mask = masks[query] > 0
        if mask.any() and (things is None or things[label]):
            expected.append((score * float(masks[query][mask].sigmoid().mean()), label, mask))
    expected.sort(key=lambda item: -item[0])
    objects = found.instances(things, most=25)
    assert 5 < len(expected) <= 25
    assert objects.scores.tolist() == pytest.approx([score for score, _, _ in expected])
    assert objects.labels.tolist() == [label for _, label, _ in expected]
    for box, mask, (_, _, wanted) in zip(objects.boxes.tolist(), objects.masks, expected, strict=True):
        assert torch.equal(mask, wanted)
        rows, columns = wanted.any(1).nonzero()[:, 0], wanted.any(0).nonzero()[:, 0]
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert len(objects.to_coco(7, range(1, 5))) == len(expected)


def test_panoptic(found: Queries) -> None:
    masks = at_original_size(found).sigmoid()
    chosen = []
    for query, logits in enumerate(found.classes.tolist()):
        scores = softmax(logits)
        if scores.index(max(scores)) < len(THINGS) and max(scores) > 0.6:
            chosen.append((max(scores), scores.index(max(scores)), masks[query]))
    winner = torch.zeros(ORIGINAL, dtype=torch.int64)
    for y in range(ORIGINAL[0]):
        for x in range(ORIGINAL[1]):
            claims = [score * float(mask[y, x]) for score, _, mask in chosen]
            winner[y, x] = claims.index(max(claims))
    expected, segments, stuff = torch.zeros(ORIGINAL, dtype=torch.int64), [], {}
    merged = dropped = 0
    for i, (score, label, mask) in enumerate(chosen):
        won, own = winner == i, mask >= 0.5
        if not own.any() or not (won & own).any() or won.sum() / own.sum() < 0.3:
            dropped += 1
            continue
        merged += label in stuff
        if label not in stuff:
            segments.append((label, score))
        expected[won & own] = stuff.get(label, len(segments))
        if not THINGS[label]:
            stuff.setdefault(label, len(segments))
    panoptic = found.panoptic(THINGS, threshold=0.6, overlap=0.3)
    labels = [label for label, _ in segments]
    assert merged > 0 < dropped
    assert labels.count(0) > 1, "things of one class are segments of their own"
    assert torch.equal(panoptic.segments, expected)
    assert panoptic.labels.tolist() == labels
    assert panoptic.scores.tolist() == pytest.approx([score for _, score in segments])
    assert panoptic.things.tolist() == [THINGS[label] for label in labels]


def test_cocos_panoptic_format() -> None:
    segments = torch.zeros(4, 300, dtype=torch.int64)
    segments[1:3, 10:20] = 1
    segments[3, 299] = 2
    found = Panoptic(segments, torch.tensor([2, 0]), torch.tensor([0.5, 1.0]), torch.tensor([True, False]))
    assert found.to_coco([92, 93, 7]) == [
        {"id": 1, "category_id": 7, "isthing": 1, "area": 20, "bbox": [10, 1, 10, 2], "iscrowd": 0, "score": 0.5},
        {"id": 2, "category_id": 92, "isthing": 0, "area": 1, "bbox": [299, 3, 1, 1], "iscrowd": 0, "score": 1.0},
    ]
    found.segments = segments * 70_000
    red, green, blue = found.to_png().int()
    assert torch.equal(red + 256 * green + 65536 * blue, found.segments.int())


def test_an_image_without_anything() -> None:
    nothing = Queries(torch.tensor([[0.0, 0, 9], [0, 0, 9]]), -torch.ones(2, 4, 4), (8, 8), (8, 8), (5, 6))
    panoptic = nothing.panoptic((True, False))
    assert not panoptic.segments.any()
    assert panoptic.segments.shape == (5, 6)
    assert panoptic.to_coco([1, 2]) == []
    assert panoptic.to_png().shape == (3, 5, 6)
    for objects in (nothing.instances(), nothing.instances((False, False))):
        assert (objects.boxes.shape, objects.masks.shape) == ((0, 4), (0, 5, 6))
        assert objects.to_coco(1) == []


def test_wrong_things(found: Queries) -> None:
    for make in (found.instances, found.panoptic):
        with pytest.raises(ValueError, match="things has 2 entries; the model has 4 classes: one each"):
            make((True, False))


class Model(nn.Module):
    """Gives the same queries for every image, and remembers what it was asked."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        self.model = nn.ModuleDict(parts)
        for name, part in parts.items():
            setattr(self.model, name, part)

    def forward(self, pixel_values: Tensor, **asked: Tensor) -> SimpleNamespace:
        self.asked = asked
        queries = torch.arange(10.0).view(1, 2, 5), torch.arange(12.0).view(1, 2, 2, 3)
        classes, masks = (x.expand(len(pixel_values), -1, *[-1] * (x.ndim - 2)) for x in queries)
        return SimpleNamespace(class_queries_logits=classes.bfloat16(), masks_queries_logits=masks.bfloat16())


def test_look() -> None:
    batch = dense.ImageTransform(longest=60, shortest=50)([torch.zeros(3, 25, 20, dtype=torch.uint8)] * 2)
    model = Model()
    one, other = look(model, batch)
    assert model.asked == {}
    assert (one.padded, one.size, one.original_size) == ((64, 64), (60, 48), (25, 20))
    assert one.classes.dtype == one.masks.dtype == torch.float32
    assert torch.equal(one.masks, other.masks)
    model = Model(task_encoder=nn.Identity())
    look(model, batch, "instance")
    assert torch.equal(model.asked["task_inputs"], oneformer.task_inputs("instance", 2))
    with pytest.raises(ValueError, match="task is None; it must be one of 'semantic', 'instance', 'panoptic'"):
        look(model, batch)


@pytest.mark.parametrize(
    ("module", "name", "longest", "shortest"),
    [
        (mask2former, "mask2former_dinat_large_ade20k_semantic", 2560, 640),
        (mask2former, "mask2former_dinat_large_cityscapes_instance", 2048, 1024),
        (mask2former, "mask2former_dinat_large_coco_panoptic", 1333, 800),
        (oneformer, "oneformer_dinat_large_coco", 1333, 800),
        (oneformer, "oneformer_dinat_large_ade20k_896", 3584, 896),
        (oneformer, "oneformer_dinat_large_ade20k_1280", 5120, 1280),
        (oneformer, "oneformer_dinat_large_mapillary", 2048, 2048),
    ],
)
def test_images_are_as_in_the_published_tests(module: object, name: str, longest: int, shortest: int) -> None:
    transform: dense.ImageTransform = module.transform(name)  # type: ignore[attr-defined]
    assert (transform.longest, transform.shortest, transform.divisor) == (longest, shortest, 32)
    # Smaller ones are smoothed, as Pillow does: what is a checkerboard of single pixels becomes grey.
    image = 255 * ((torch.arange(4096)[:, None] + torch.arange(4096)) % 2)
    small = transform([image.expand(3, -1, -1).to(torch.uint8)]).images[0, :, 8:-40, 8:-40]
    grey = (127.5 - 255 * torch.tensor([0.485, 0.456, 0.406])) / (255 * torch.tensor([0.229, 0.224, 0.225]))
    assert (small - grey[:, None, None]).abs().max() < 0.1
