"""Class probabilities of a slice, averaged over turned and zoomed views of it."""

import math
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from poscon.networks.parts import SegmentationNetwork

TURNS = (0.0, 10.0, -10.0)
"""Degrees."""
ZOOMS = (1.0, 1.12, 0.9)
"""Pixels of the slice for each pixel of the view."""
VIEWS = tuple(product(TURNS, ZOOMS))
"""Turn and zoom of each view. The first view is the slice itself."""


def averaged_probabilities(network: SegmentationNetwork, images: Tensor) -> Tensor:
    """The mean of the class probabilities of all views, each turned back first.

    Where a view that was turned back shows nothing, it counts for no class.

    Args:
        network: in evaluation mode.
        images: (B, in_channels, H, W) float32.

    Returns:
        (B, classes, H, W) float32. Their sum is below 1 where some view shows nothing.
    """
    total = network(images).float().softmax(1)
    for turn, zoom in VIEWS[1:]:
        there = affine(turn, zoom)
        seen = network(warped(images, there)).float().softmax(1)
        total = total + warped(seen, torch.linalg.inv(there))
    return total / len(VIEWS)


def affine(turn: float, zoom: float) -> Tensor:
    """(2, 2) float64, from a place (x, y) in the view to that in the slice, around the middle.

    Args:
        turn: degrees.
        zoom: pixels of the slice for each pixel of the view.
    """
    angle = math.radians(turn)
    cosine, sine = math.cos(angle), math.sin(angle)
    return zoom * torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)


def warped(images: Tensor, matrix: Tensor) -> Tensor:
    """Sample images at other places, linearly; 0 outside.

    Args:
        images: (B, C, H, W) float32.
        matrix: (2, 2), from a place (x, y) of the result to that in the images, in pixels from the
            middle.
    """
    height, width = images.shape[2:]
    extent = torch.tensor([width, height], dtype=torch.float64)  # a grid's unit is half of it
    theta = torch.zeros(len(images), 2, 3)
    theta[:, :, :2] = (matrix * extent[None, :] / extent[:, None]).float()
    grid = affine_grid(theta, list(images.shape), align_corners=False)
    return grid_sample(images, grid.to(images.device), align_corners=False)
