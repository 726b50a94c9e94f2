"""Eight standard poses, one from each side, for pictures of any size.

They are those of SynthReID's average body in `synthetic.standard_poses`. As in the annotations of SynthReID,
joints that clothes or the body itself hide are missing, but only where they mostly are in views 15 degrees to
each side, too: nearly nobody is seen exactly from the side. All are kept as shares of the picture, so nothing
is drawn to get them.
"""

from __future__ import annotations

import numpy as np

__all__ = ["standard_poses"]

# Of each pose y of the 18 joints in ten-thousandths of the height, then x of the width; -1 where hidden
_TABLE = """
1837 2632 2740 4065 5331 2740 4245 5358 5300 7396 9455 5300 7210 8929 1684 1684 1664 1664
5039 5039 2840 2392 2473 7238 7686 7605 3939 3939 3864 6139 6139 6214 4612 5466 4105 5973
1633 2462 2690 4220 5404 2449 3839   -1 5195 7237 9125 5075 7189 9255 1509 1462 1540   -1
6247 5190 3635 3903 5158 6745 6476   -1 4262 3525 2464 5817 6971 7194 5771 6374 4676   -1
  -1 2332 2610 4149 5447 2269   -1   -1 5101 7246 8526 4931   -1 9126 1319   -1 1420   -1
  -1 5252 5252 5252 5776 5252   -1   -1 5039 5346 1666 5039   -1 5088 6501   -1 5460   -1
  -1 2446 2674 4203 5532 2432   -1   -1 5202 7138 9167 5081 7238 9074 1355   -1 1501 1398
  -1 5190 6745 6476 6270 3635   -1   -1 5817 6971 7337 4262 3525 1591 6374   -1 5997 4676
  -1 2599 2707 4032 4819 2707 4212 5557 5300 7456 9478 5300 7063 8872   -1   -1 1599 1599
  -1 5039 7238 7686 7605 2840 2392 2473 6139 6139 6214 3939 3939 3864   -1   -1 5973 4105
  -1 2439 2426 3906 5244 2667 4106 5104 5075 7010 9050 5195 7352 9395   -1 1348 1392 1494
  -1 4888 6443 7345 7437 3333 2431 1291 5817 4662 4546 4262 4998 5953   -1 3704 5402 4081
1420 2332 2269   -1   -1 2610 4149 5447 4931   -1 9126 5101 7246 8526   -1 1319   -1 1420
3331 4826 4826   -1   -1 4826 4826 4303 5039   -1 4990 5039 4732 8412   -1 3577   -1 4618
1639 2469 2456 3936 5129 2697 4135 5441 5081 7123 8668 5202 7316 9395 1468 1515   -1 1547
3831 4888 3333 2431 1291 6443 7345 7437 4262 4998 6826 5817 4662 4403 3704 4307   -1 5402
"""
_SHARES = np.loadtxt(_TABLE.strip().split("\n")).reshape(-1, 2, 18).transpose(0, 2, 1)  # (8, 18, 2)


def standard_poses(height: int, width: int) -> dict[str, np.ndarray]:
    """Eight poses of a walking person who fills the picture, from pose to pose turned by 45 degrees.

    Args:
        height: of the picture, in pixels.
        width: likewise; people look natural where it is half the height.

    Returns:
        Name, "1" (towards the camera), "3" (to the right), "5" (away) to "8", to (18, 2) float array of
        (y, x) pixels, -1 where the joint is hidden.

    Raises:
        ValueError: if a side is below 1.
    """
    if height < 1 or width < 1:
        raise ValueError(f"expected height and width >= 1, got {height} and {width}")
    pixels = _SHARES / 10_000 * [height, width] - 0.5  # pixels are areas, and a joint is in the middle of one
    poses = np.where(_SHARES == -1, -1.0, pixels)
    return {str(number): pose for number, pose in enumerate(poses, start=1)}
