"""Monocular visual odometry on OpenCV's parts: what a camera that is calibrated says of its own way, frame by frame.

SIFT features; a first map from two views by the essential matrix (MAGSAC) or, before a plane, the homography; every
frame then placed by its matches with mapped points (PnP), and keyframes, chosen by parallax, add points and adjust the
last few views together. The map carries the scale. Nothing later than a frame decides its pose but while the first map
is still awaited, and there is no closing of loops.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from lingbot_eval.geometry.poses import inverse, pose_matrix
from lingbot_eval.methods.bundle import (
    FIRST_POINTS,
    PIXELS,
    POINT_ANGLE,
    Observations,
    Rows,
    TwoViews,
    View,
    adjust,
    adjust_view,
    explained,
    matched,
    reprojection_errors,
    triangulated,
    two_views,
)
from lingbot_eval.types import FloatArray, Image

FEATURES = 1500
LAYERS = 3
CONTRAST = 0.005  # of a feature; dark and blurred pictures have no stronger ones, and of many the strongest are kept
ALIKE = 0.75  # cosine of descriptors that are taken for one point where geometry has said where to look
NEAREST = 3  # features tried for a point whose place is foretold
STILL_PIXELS = 1.0  # median motion of features up to which a camera stands
FEWEST = 15  # points that a frame must see where they should be; with fewer it is lost
KEPT_SHARE = 0.5  # of the last keyframe's points; a frame that sees fewer becomes a keyframe
KEY_PIXELS = 40.0  # median motion since the last keyframe from which on a frame becomes one
RECENT = 8  # keyframes whose points are looked for in a frame, and whose views are adjusted
FIXED = 3  # of them, the oldest: they hold the scale
SOUGHT = 24  # keyframes in which a lost frame is looked for
CLEARLY = 1.3  # times worse that another explanation must fit the frames between
TRIED = 4  # frames between two views that are asked which explanation is right
AWAITED = 32  # frames that may wait for the first map
CALIBRATED_AT = (6, 9, 13, 19, 28)  # keyframes at which a focal length in doubt is estimated anew, by all of them


@dataclass(eq=False)
class Odometry:
    """A camera's way through one sequence. ``cv2``: OpenCV's module, which only this method needs.

    Attributes:
        keyframes: those of the map, in order.
        lost: frames without a pose so far.
        relocated: frames found again in an older keyframe.
    """

    cv2: ModuleType
    doubt: float = 0.0
    seed: int = 0
    focal: float = 1.0
    keyframes: list[View] = field(default_factory=list)
    lost: int = 0
    relocated: int = 0
    _points: FloatArray = field(default_factory=lambda: np.empty((0, 3)))
    _descriptors: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 128), np.float32))
    _first: View | None = None
    _awaiting: deque[tuple[int, View | None]] = field(default_factory=deque)
    _anchored: bool = False
    _origin: FloatArray = field(default_factory=lambda: np.eye(4))
    _likely: tuple[View, TwoViews] | None = None
    _before: View | None = None
    _motion: FloatArray = field(default_factory=lambda: np.eye(4))
    _kept: int = 0

    def __post_init__(self) -> None:
        self._sift: Any = self.cv2.SIFT_create(nfeatures=FEATURES, nOctaveLayers=LAYERS, contrastThreshold=CONTRAST)
        self.cv2.setRNGSeed(self.seed)

    def step(self, index: int, image: Image, intrinsics: FloatArray) -> Iterator[tuple[int, FloatArray | None]]:
        """Take the next frame.

        Args:
            index: of the frame.
            image: (H, W, 3) uint8.
            intrinsics: (3, 3) pixels.

        Yields:
            Frames that are decided, in order: index and (4, 4) camera-to-world, None for a lost one. The world is the
            camera of the first that has a pose, and the median depth of the first map is 1.
        """
        view = self._seen(index, image, intrinsics)
        yield from self._in_world([(index, self._placed(view))] if self.keyframes else self._begin(view))

    def finish(self) -> Iterator[tuple[int, FloatArray | None]]:
        """Decide what still waits for the first map: of a camera that stood still that is where it stood."""
        yield from self._in_world((index, self._unmoved(moved)) for index, moved in self._awaiting)
        self._awaiting.clear()

    def _in_world(self, found: Iterable[tuple[int, FloatArray | None]]) -> Iterator[tuple[int, FloatArray | None]]:
        return ((index, None if pose is None else self._origin @ pose) for index, pose in found)

    @property
    def points(self) -> int:
        """How many the map has had."""
        return len(self._points)

    # ---- the first map

    def _begin(self, view: View) -> Iterator[tuple[int, FloatArray | None]]:
        """Wait for parallax against the first frame; then place all that waited."""
        if self._first is None:
            self._first = view
            self._awaiting.append((view.index, None))
            return
        first = self._first
        mine, its = matched(view.descriptors, first.descriptors)
        moved = np.linalg.norm(view.rays[mine] - first.rays[its], axis=1) * view.focal
        still = len(moved) >= FEWEST and float(np.median(moved)) <= STILL_PIXELS
        self._awaiting.append((view.index, None if still else view))
        if not still and len(mine) >= FIRST_POINTS:
            found, clear = self._chosen(two_views(self.cv2, first, view, its, mine))
            self._likely = (view, found) if found is not None else self._likely
            if clear:
                yield from self._caught_up()
                return
        if len(self._awaiting) > AWAITED or len(mine) < FIRST_POINTS:
            # The likeliest explanation is better than none.
            yield from self._given_up(still) if self._likely is None else self._caught_up()

    def _caught_up(self) -> Iterator[tuple[int, FloatArray | None]]:
        """Make the first map, and place what waited for it."""
        assert self._first is not None
        assert self._likely is not None
        second, pair = self._likely
        self._first_map(self._first, second, pair)
        for index, view in self._awaiting:
            if view is None:
                yield index, np.eye(4)
            elif view is second:
                self._motion, self._before = np.eye(4), second
                yield index, inverse(second.pose)
            else:
                yield index, self._placed(view, becoming_key=index > second.index)
        self._awaiting.clear()

    def _given_up(self, still: bool) -> Iterator[tuple[int, FloatArray | None]]:
        """Nothing more is gained by waiting for the oldest frames."""
        if still:
            # They are where the first is, which stays what the others are compared with.
            self._anchored = True
        elif not self._anchored:
            # Out of the first frame's sight: the world begins anew, and what was before has no place in it, unless the
            # camera has only turned since.
            turned = next(self._turned(view) for _, view in self._awaiting if view is not None)
            while self._awaiting[0][1] is None:
                self.lost += turned is None
                yield self._awaiting.popleft()[0], None if turned is None else np.eye(4)
            first = self._first
            assert first is not None
            index, self._first = self._awaiting.popleft()
            # Who came back to where the first stood has seen what that saw.
            rest = ((n, replace(first, index=n) if view is None else view) for n, view in self._awaiting)
            self._awaiting = deque([(index, None), *rest])
            self._origin = self._origin if turned is None else self._origin @ inverse(turned)
            return
        index, moved = self._awaiting.popleft()
        yield index, self._unmoved(moved)

    def _unmoved(self, moved: View | None) -> FloatArray | None:
        """Camera-to-world of a frame that no map will place: where the first is, unless it has left that place."""
        turned = np.eye(4) if moved is None else self._turned(moved)
        self.lost += turned is None
        return None if turned is None else inverse(turned)

    def _turned(self, view: View) -> FloatArray | None:
        """World-to-camera of a view that stands where the first does and is turned; None where it is not so."""
        first = self._first
        if first is None:
            return None
        mine, its = matched(view.descriptors, first.descriptors)
        seen, before = (
            np.pad(rays, ((0, 0), (0, 1)), constant_values=1.0) for rays in (view.rays[mine], first.rays[its])
        )
        good = np.ones(len(mine), dtype=bool)
        pose, none = np.eye(4), np.zeros(len(mine), int)
        for _ in range(3):
            if good.sum() < FEWEST:
                return None
            # Wahba's problem, on directions of length 1 (Markley 1988).
            one, other = (rays[good] / np.linalg.norm(rays[good], axis=1, keepdims=True) for rays in (seen, before))
            left, _, right = np.linalg.svd(one.T @ other)
            pose[:3, :3] = left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right
            away = reprojection_errors(pose[None], before, none, view.rays[mine]) * view.focal
            good = away < 3 * max(STILL_PIXELS, float(np.median(away)))
        return pose if np.median(away) <= STILL_PIXELS else None

    def _chosen(self, found: list[TwoViews]) -> tuple[TwoViews | None, bool]:
        """The one that the frames between the two views bear out best, and whether that is clear.

        Two views of a plane have two explanations that fit alike.
        """
        if len(found) < 2:
            return (found[0], True) if found else (None, False)
        between = [view for _, view in self._awaiting if view is not None][:-1]
        first = self._first
        assert first is not None
        misfits = []
        for pair in found:
            score, count = pair.score, pair.matches
            for view in between[-TRIED:]:
                mine, its = matched(view.descriptors, first.descriptors[pair.first])
                if len(mine) < FEWEST:
                    continue
                where, rays, none = pair.points[its], view.rays[mine], np.zeros(len(mine), int)
                pose = adjust_view(np.eye(4), where, rays, 1 / view.sizes[mine])
                score += explained(reprojection_errors(pose[None], where, none, rays), PIXELS / view.focal)
                count += len(mine)
            misfits.append(1 - score / count)
        best, second = sorted(range(len(found)), key=lambda row: misfits[row])[:2]
        return found[best], misfits[second] > CLEARLY * misfits[best] + 0.01

    def _first_map(self, first: View, second: View, pair: TwoViews) -> None:
        scale = 1 / float(np.median(pair.points[:, 2]))
        motion = pair.motion.copy()
        motion[:3, 3] *= scale
        first.world_to_camera, second.world_to_camera = np.eye(4), motion
        self._add_points(pair.points * scale, [(first, pair.first), (second, pair.second)])
        self.keyframes = [first, second]
        self._adjust()
        # Adjusting two views leaves the scale to the second's free translation: say it once.
        depth = float(np.median(self._points[:, 2]))
        self._points /= depth
        second.pose[:3, 3] /= depth
        self._kept = int((second.point >= 0).sum())

    # ---- a frame on the map

    def _placed(self, view: View, becoming_key: bool = True) -> FloatArray | None:
        """The frame's camera-to-world; the map grows where it becomes a keyframe."""
        guess = self._motion @ (self._before or self.keyframes[-1]).pose
        found = self._tracked(view, self._local_points(), guess)
        if not found:
            found = self._found_again(view)
        if not found:
            self.lost += 1
            self._motion = np.eye(4)
            return None
        steady = self._before is not None and view.index == self._before.index + 1
        self._motion = view.pose @ inverse(self._before.pose) if steady and self._before else np.eye(4)
        self._before = view
        if becoming_key and self._is_key(view):
            self._add_key(view)
        return inverse(view.pose)

    def _local_points(self) -> Rows:
        """Points that the last keyframes see."""
        seen = np.concatenate([key.point for key in self.keyframes[-RECENT:]])
        return np.unique(seen[seen >= 0])

    def _tracked(self, view: View, rows: Rows, guess: FloatArray | None) -> bool:
        """Place the frame by mapped points; False where too few of them are where they should be."""
        mine, its = matched(view.descriptors, self._descriptors[rows])
        placed = self._resected(view, mine, rows[its], guess)
        if placed is None:
            return False
        view.world_to_camera = placed
        # Again, now that it is known where each point should be.
        for _ in range(2):
            mine, its = self._guided(view, rows)
            if len(mine) < FEWEST:
                return False
            view.world_to_camera = adjust_view(view.pose, self._points[its], view.rays[mine], 1 / view.sizes[mine])
        errors = reprojection_errors(view.pose[None], self._points[its], np.zeros(len(its), int), view.rays[mine])
        good = errors < PIXELS * view.sizes[mine]
        if good.sum() < FEWEST:
            return False
        view.point[:] = -1
        view.point[mine[good]] = its[good]
        return True

    def _resected(self, view: View, mine: Rows, points: Rows, guess: FloatArray | None) -> FloatArray | None:
        """World-to-camera from matches, the best of what the motion foretells and what PnP finds."""
        best, most = None, FEWEST - 1
        rays, where = view.rays[mine], self._points[points]
        if len(mine) < FEWEST // 2:
            return None
        tried = [] if guess is None else [guess]
        tolerance = PIXELS * 1.5 / view.focal
        if len(mine) >= 6:
            ok, turn, move, _ = self.cv2.solvePnPRansac(
                where,
                rays * view.focal,
                np.diag([view.focal, view.focal, 1.0]),
                None,
                iterationsCount=300,
                reprojectionError=tolerance * view.focal,
                confidence=0.999,
                flags=self.cv2.SOLVEPNP_AP3P,
            )
            if ok and np.isfinite(turn).all() and np.isfinite(move).all():
                tried.append(pose_matrix(self.cv2.Rodrigues(turn)[0], move[:, 0]))
        none = np.zeros(len(mine), int)
        for pose in tried:
            near = reprojection_errors(pose[None], where, none, rays) < 3 * tolerance
            for _ in range(3):
                if near.sum() < 6:
                    break
                pose = adjust_view(pose, where[near], rays[near], 1 / view.sizes[mine][near])
                near = reprojection_errors(pose[None], where, none, rays) < tolerance
            if near.sum() > most:
                best, most = pose, int(near.sum())
        return best

    def _guided(self, view: View, rows: Rows) -> tuple[Rows, Rows]:
        """Features and points that lie where the frame's pose says and look alike: each once."""
        local = self._points[rows] @ view.pose[:3, :3].T + view.pose[:3, 3]
        rows, local = rows[local[:, 2] > 1e-3], local[local[:, 2] > 1e-3]
        if not len(rows) or not len(view.rays):
            return np.empty(0, int), np.empty(0, int)
        foretold = local[:, :2] / local[:, 2:]
        away, near = KDTree(view.rays).query(foretold, NEAREST, distance_upper_bound=4 * PIXELS / view.focal)
        point, place = np.nonzero(np.isfinite(away))
        feature = np.asarray(near)[point, place]
        alike = np.einsum("kd,kd->k", view.descriptors[feature], self._descriptors[rows[point]])
        order = np.argsort(-alike, kind="stable")
        order = order[alike[order] > ALIKE]
        _, one = np.unique(point[order], return_index=True)
        order = order[np.sort(one)]
        _, one = np.unique(feature[order], return_index=True)
        order = order[one]
        return feature[order], rows[point[order]]

    def _found_again(self, view: View) -> bool:
        """Place a frame that the last keyframes' points do not place, by one older keyframe after the other."""
        older = self.keyframes[::-1]
        if len(older) > SOUGHT:
            # The latest half as they are, and of the rest some, evenly.
            rest = older[SOUGHT // 2 :]
            older = older[: SOUGHT // 2] + rest[:: max(1, len(rest) // (SOUGHT // 2))][: SOUGHT // 2]
        for key in older:
            seen = key.point[key.point >= 0]
            if len(seen) >= FEWEST and self._tracked(view, np.unique(seen), None):
                self.relocated += 1
                return True
        return False

    # ---- the map

    def _is_key(self, view: View) -> bool:
        last = self.keyframes[-1]
        seen = view.point >= 0
        _, mine, its = np.intersect1d(view.point[seen], last.point[last.point >= 0], return_indices=True)
        if len(mine) < KEPT_SHARE * self._kept:
            return True
        moved = np.linalg.norm(view.rays[seen][mine] - last.rays[last.point >= 0][its], axis=1)
        return float(np.median(moved)) * view.focal > KEY_PIXELS

    def _add_key(self, view: View) -> None:
        for other in self.keyframes[-4:][::-1]:
            self._triangulate(other, view)
        self.keyframes.append(view)
        self._adjust()
        if self.doubt and len(self.keyframes) in CALIBRATED_AT:
            self._calibrate()
        self._kept = int((view.point >= 0).sum())
        if len(self.keyframes) > RECENT + 4:
            # Features that became no point by now never will.
            old = self.keyframes[-RECENT - 5]
            of_point = old.point >= 0
            old.rays, old.descriptors, old.sizes, old.point = (
                old.rays[of_point],
                old.descriptors[:0],
                old.sizes[of_point],
                old.point[of_point],
            )

    def _triangulate(self, other: View, view: View) -> None:
        """Points that both views see and the map lacks."""
        free, its = np.flatnonzero(view.point < 0), np.flatnonzero(other.point < 0)
        if not len(free) or not len(its):
            return
        mine, theirs = matched(view.descriptors[free], other.descriptors[its])
        mine, theirs = free[mine], its[theirs]
        points, angles = triangulated(other.pose, view.pose, other.rays[theirs], view.rays[mine])
        none = np.zeros(len(points), int)
        good = (
            (angles > POINT_ANGLE)
            & (reprojection_errors(other.pose[None], points, none, other.rays[theirs]) < PIXELS * other.sizes[theirs])
            & (reprojection_errors(view.pose[None], points, none, view.rays[mine]) < PIXELS * view.sizes[mine])
        )
        self._add_points(points[good], [(other, theirs[good]), (view, mine[good])])

    def _add_points(self, points: FloatArray, seen: list[tuple[View, Rows]]) -> None:
        first = len(self._points)
        self._points = np.concatenate([self._points, points])
        view, rows = seen[-1]
        self._descriptors = np.concatenate([self._descriptors, view.descriptors[rows]])
        for view, rows in seen:
            view.point[rows] = np.arange(first, first + len(points))

    def _adjust(self) -> None:
        """Adjust the last views and what they see, then forget observations that do not fit."""
        views = self.keyframes[-RECENT:]
        found = self._observed(views)
        if found is None:
            return
        rows, feature, seen = found
        fixed = min(len(views) - 2, FIXED) if len(views) > 2 else 1
        poses, points, _ = adjust(np.stack([view.pose for view in views]), self._points[rows], seen, fixed)
        self._points[rows] = points
        errors = reprojection_errors(poses, points[seen.point], seen.view, seen.rays) * seen.weights
        for number, view in enumerate(views):
            view.world_to_camera = poses[number]
            view.point[feature[(seen.view == number) & (errors > 1.5 * PIXELS)]] = -1

    def _calibrate(self) -> None:
        """Adjust all views together with the focal length that the rays have; the last view keeps its place."""
        views, last = self.keyframes, self.keyframes[-1]
        found = self._observed(views)
        if found is None:
            return
        rows, _, seen = found
        poses, points, focal = adjust(
            np.stack([view.pose for view in views]), self._points[rows], seen, 1, iterations=15, doubt=self.doubt
        )
        # What the last view sees keeps its depth: poses that were given go on in their scale, without a jump.
        of_last = seen.point[seen.view == len(views) - 1]
        before = (self._points[rows][of_last] @ last.pose[:3, :3].T + last.pose[:3, 3])[:, 2]
        after = (points[of_last] @ poses[-1, :3, :3].T + poses[-1, :3, 3])[:, 2]
        # A longer focal length makes the same picture of a scene that is further away.
        scale = float(np.median(before) / np.median(after)) if len(of_last) else 1.0
        if not (np.isfinite(scale) and 0.1 < scale < 10 and 0.5 < self.focal * focal < 2):
            return
        poses[:, :3, 3] *= scale
        moved = inverse(last.pose) @ poses[-1]
        self._points[rows] = scale * points @ moved[:3, :3].T + moved[:3, 3]
        for view, pose in zip(views, poses @ inverse(moved), strict=True):
            view.world_to_camera = pose
            view.rays, view.sizes, view.focal = view.rays / focal, view.sizes / focal, view.focal * focal
        self.focal *= focal
        self._adjust()

    def _observed(self, views: list[View]) -> tuple[Rows, Rows, Observations] | None:
        """Points that two of the views see at least, the feature of each observation, and the observations."""
        number = np.concatenate([np.full(len(view.point), n) for n, view in enumerate(views)])
        feature = np.concatenate([np.arange(len(view.point)) for view in views])
        point = np.concatenate([view.point for view in views])
        rays, sizes = np.concatenate([view.rays for view in views]), np.concatenate([view.sizes for view in views])
        known = np.flatnonzero(point >= 0)
        _, place, counts = np.unique(point[known], return_inverse=True, return_counts=True)
        known = known[counts[place] >= 2]
        if not len(known):
            return None
        rows, place = np.unique(point[known], return_inverse=True)
        return rows, feature[known], Observations(number[known], place, rays[known], 1 / sizes[known])

    def _seen(self, index: int, image: Image, intrinsics: FloatArray) -> View:
        grey = self.cv2.cvtColor(image, self.cv2.COLOR_RGB2GRAY)
        found, descriptors = self._sift.detectAndCompute(grey, None)
        found = found[:FEATURES]
        descriptors = np.empty((0, 128), np.float32) if descriptors is None else descriptors[:FEATURES]
        # The square root of the share of each bin: Hellinger's distance (Arandjelović and Zisserman, CVPR 2012).
        descriptors = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9))
        pixels = np.array([key.pt for key in found], np.float64).reshape(-1, 2)
        across, down = self.focal * intrinsics[0, 0], self.focal * intrinsics[1, 1]
        focal = float((across + down) / 2)
        rays = (pixels - intrinsics[:2, 2]) / [across, down]
        octave = np.array([(key.octave & 255) for key in found], np.int64)
        octave = np.where(octave < 128, octave, octave - 256)
        # SIFT finds a feature to a part of a pixel of its octave.
        sizes = np.maximum(1.0, 0.7 * 2.0**octave) / focal
        return View(index, rays, descriptors, sizes, focal, np.full(len(rays), -1))
