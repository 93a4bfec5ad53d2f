"""What answers where mmcv has no compiled operators."""

import math

import numpy as np
import pytest
import torch

mmcv_ops = pytest.importorskip('mmcv.ops')


def greedy_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float, offset: int) -> list[int]:
    """By falling score, keep a box unless it overlaps a kept one by more than the threshold."""
    kept = []
    for i in np.argsort(-scores):
        x1, y1, x2, y2 = boxes[i]
        for j in kept:
            a1, b1, a2, b2 = boxes[j]
            width = max(0.0, min(x2, a2) - max(x1, a1) + offset)
            height = max(0.0, min(y2, b2) - max(y1, b1) + offset)
            union = (x2 - x1 + offset) * (y2 - y1 + offset)
            union += (a2 - a1 + offset) * (b2 - b1 + offset) - width * height
            if width * height / union > threshold:
                break
        else:
            kept.append(int(i))
    return kept


def slow_roi_align(
    image: np.ndarray, roi: np.ndarray, size: tuple[int, int], scale: float, samples: int
) -> np.ndarray:
    """Mean of bilinear samples on a grid in every bin; `image` (C, H, W), `roi` x1y1x2y2."""
    channels, height, width = image.shape

    def sample(y: float, x: float) -> np.ndarray:
        if not (-1 <= y <= height and -1 <= x <= width):
            return np.zeros(channels)
        y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        dy, dx = y - top, x - left
        return (
            image[:, top, left] * (1 - dy) * (1 - dx)
            + image[:, top, right] * (1 - dy) * dx
            + image[:, bottom, left] * dy * (1 - dx)
            + image[:, bottom, right] * dy * dx
        )

    x1, y1, x2, y2 = roi * scale - 0.5
    bin_h, bin_w = (y2 - y1) / size[0], (x2 - x1) / size[1]
    n_y, n_x = samples or math.ceil(bin_h), samples or math.ceil(bin_w)
    out = np.zeros((channels, *size))
    for i in range(size[0]):
        for j in range(size[1]):
            out[:, i, j] = sum(
                sample(y1 + (i + (a + 0.5) / n_y) * bin_h, x1 + (j + (b + 0.5) / n_x) * bin_w)
                for a in range(n_y)
                for b in range(n_x)
            ) / (n_y * n_x)
    return out


def random_boxes(n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * 60
    return torch.cat([corner, corner + 1 + torch.rand(n, 2, generator=generator) * 40], 1)


@pytest.mark.parametrize(('offset', 'threshold'), [(0, 0.5), (1, 0.7)])
def test_nms_agrees_with_a_greedy_loop(offset, threshold):
    boxes = random_boxes(120, seed=offset)
    scores = torch.rand(120, generator=torch.Generator().manual_seed(7))
    detections, kept = mmcv_ops.nms(boxes, scores, threshold, offset=offset)
    expected = greedy_nms(boxes.double().numpy(), scores.numpy(), threshold, offset)
    assert kept.tolist() == expected
    assert 1 < len(expected) < 120
    torch.testing.assert_close(detections, torch.cat([boxes, scores[:, None]], 1)[expected])


@pytest.mark.parametrize('samples', [0, 2])
def test_roi_align_agrees_with_a_loop(samples):
    image = torch.randn(2, 3, 17, 23, generator=torch.Generator().manual_seed(0))
    boxes = [[8.0, 4.0, 60.0, 50.0], [-9.0, -7.0, 30.0, 21.0], [70.0, 40.0, 99.0, 77.0]]
    rois = torch.cat([torch.tensor([[0.0], [1.0], [1.0]]), torch.tensor(boxes)], 1)
    expected = np.stack(
        [
            slow_roi_align(image[int(roi[0])].numpy(), roi[1:].numpy(), (4, 3), 0.25, samples)
            for roi in rois
        ]
    )
    out = mmcv_ops.RoIAlign((4, 3), 0.25, samples)(image, rois)
    torch.testing.assert_close(out, torch.from_numpy(expected).float())


def test_roi_align_has_the_gradient_of_its_differences():
    image = torch.randn(1, 2, 6, 7, dtype=torch.double, requires_grad=True)
    rois = torch.tensor([[0, 1.2, 0.5, 9.0, 10.3], [0, 4.0, 3.0, 12.5, 11.0]], dtype=torch.double)
    layer = mmcv_ops.RoIAlign((2, 3), 0.5, 2)
    torch.autograd.gradcheck(lambda x: layer(x, rois), image)
