"""What the commands do, as functions that users call; every command parses options, calls one of these and prints."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lingbot_eval.errors import ConfigError, DataError, LingbotEvalError
from lingbot_eval.registry import load_plugins
from lingbot_eval.resources import expanded
from lingbot_eval.settings import several

if TYPE_CHECKING:
    from lingbot_eval.comparison.backends import BackendComparison
    from lingbot_eval.datasets.cards import Scene
    from lingbot_eval.datasets.fetch import FetchPlan
    from lingbot_eval.gating.baseline import Baseline
    from lingbot_eval.gating.judge import Verdict
    from lingbot_eval.methods.model import Model
    from lingbot_eval.reports.reading import Run
    from lingbot_eval.reports.report import WrittenReport
    from lingbot_eval.reports.two_runs import RunComparison
    from lingbot_eval.runs.execute import Observer, Parallel
    from lingbot_eval.runs.plan import Plan
    from lingbot_eval.stored.records import UnitRecord
    from lingbot_eval.stored.store import Outcome, RunStore, StoredUnit
    from lingbot_eval.streaming.estimate import Fit
    from lingbot_eval.streaming.settings import Backend
    from lingbot_eval.verification.compare import Comparison
    from lingbot_eval.verification.wrapper import WrapperCheck
    from lingbot_eval.viewing.export import Exported
    from lingbot_eval.viewing.film import Films, FilmSettings
    from lingbot_eval.viewing.layers import Colouring, LayeredScene
    from lingbot_eval.viewing.live import Camera, LiveScene, LiveViewer, Pairs
    from lingbot_eval.viewing.page import OpenScene, Viewer
    from lingbot_eval.viewing.scaled import Scale

RUNS = Path("runs")
_CAMERA_INTERVAL = 10  # frames
PathLike = str | os.PathLike[str]


def plan_run(experiment: PathLike | Mapping[str, Any], set: Mapping[str, Any] | Sequence[str] = ()) -> Plan:
    """Decide everything of a run and do nothing.

    Args:
        experiment: an experiment file, the name of a shipped one, or its settings as a mapping.
        set: settings to change, by dotted key: ``{"datasets.0.selection.count": 50}`` (or ``["key=value"]``).

    Returns:
        The plan: resolved settings, units (dataset, scene, method), weights and key.

    Raises:
        ConfigError, DataError, CheckpointError: whatever cannot be used, in one line.
    """
    from lingbot_eval.runs.experiment import load_experiment
    from lingbot_eval.runs.plan import make_plan

    return make_plan(load_experiment(experiment, set))


def fit(
    experiment: PathLike | Mapping[str, Any], memory: str, set: Mapping[str, Any] | Sequence[str] = ()
) -> dict[str, Fit]:
    """Find settings under which an experiment's streams fit into a card, by the forecast; nothing is streamed.

    Args:
        experiment: as of `plan_run`.
        memory: of the card, as ``"8GB"``; where the CPU computes, of the machine.
        set: as of `plan_run`.

    Returns:
        For each method that streams the model, by its dotted key (``methods.0``), the choices that were tried.
        ``changes()`` are those of the first that fits; `run` takes them in ``set``, with the key before their names.

    Raises:
        ConfigError: nothing fits, or no stream's length is known.
        DataError: a scene cannot be opened, or its first frame cannot be decoded.
    """
    from lingbot_eval.methods.lingbot_config import LingbotConfig
    from lingbot_eval.model.build import choose_device
    from lingbot_eval.model.config import CONFIGS
    from lingbot_eval.runs.plan import open_scene, prepared_size
    from lingbot_eval.streaming.estimate import NetworkSize, Stream, memory_bytes
    from lingbot_eval.streaming.estimate import fit as fit_streams

    wanted = memory_bytes(memory)
    plan = plan_run(experiment, set)
    found = {}
    for number, method in enumerate(plan.experiment.methods):
        if not isinstance(method, LingbotConfig):
            continue
        streams: dict[Stream, None] = {}
        for unit in plan.units:
            if unit.method == method and (sequence := open_scene(unit)).length:
                width, height = prepared_size(unit, sequence)
                streams[Stream(height, width, sequence.length)] = None
        if not streams:
            raise ConfigError(f"--fit {memory}: the length of no stream is known; set datasets.0.selection.count")
        network = NetworkSize(
            CONFIGS[method.model.config], method.precision, method.model.camera_iterations, method.model.point_head
        )
        found[f"methods.{number}"] = fit_streams(
            network, method.streaming, tuple(streams), wanted, choose_device(method.device)
        )
    return found


def run(
    experiment: PathLike | Mapping[str, Any],
    *,
    set: Mapping[str, Any] | Sequence[str] = (),
    out: PathLike = RUNS,
    plugins: Iterable[str] = (),
    allow_commands: bool = False,
    command: str | None = None,
    observer: Observer | None = None,
    parallel: Parallel | None = None,
) -> Run:
    """Run an experiment, or the rest of it: units that are done from the same input are not done again.

    Args:
        experiment: as of `plan_run`.
        set: as of `plan_run`.
        out: folder of run directories; the run's own is named after its content.
        plugins: files or modules to load first.
        allow_commands: whether methods may run the commands that the settings name.
        command: how the run is repeated, for its record.
        observer: told of the plan, each frame and each unit.
        parallel: how units are spread over processes and hosts; one after the other, in this process, if None.

    Returns:
        The stored run. ``run.outcome`` says what was done, skipped and failed; a failed unit is a result with its
        reason and raises nothing.

    Raises:
        ConfigError, DataError, CheckpointError: as `plan_run`; a command that is not allowed; a worker of other code.
        StoreError: the directory cannot be written, or another process writes there.
    """
    from dataclasses import replace

    from lingbot_eval.reports.reading import open_run
    from lingbot_eval.runs.execute import Observer, execute

    load_plugins(plugins)
    watching = observer or Observer()
    plan = plan_run(experiment, set)
    watching.planned(plan)
    repeat = command or _repeat(experiment, set, out)
    outcome: Outcome = execute(plan, Path(out), repeat, watching, allow_commands=allow_commands, parallel=parallel)
    return replace(open_run(outcome.path), outcome=outcome)


def fetch_dataset(
    name: str,
    root: PathLike,
    scenes: Iterable[str] = (),
    *,
    card: PathLike | None = None,
    agree: Callable[[FetchPlan], bool] = lambda plan: True,
    progress: Callable[[str, int, int | None], object] = lambda what, done, total: None,
) -> FetchPlan:
    """Fetch a dataset from the official addresses on its card, into the layout that is read (extra ``fetch``).

    What was cut off goes on at the next call, what is there already is not fetched again, and a part of the dataset
    appears under the root whole or not at all.

    Args:
        name: of the dataset.
        root: folder to fetch into.
        scenes: scenes to fetch; those of its protocol if none is named.
        card: a card of your own, with addresses of your mirror: a file, or a folder with ``NAME.yaml``.
        agree: asked before anything is fetched, with the plan: its card has the licence.
        progress: called with what is being done, the bytes that are done and those to be done, None if not known.

    Returns:
        The plan: its ``parts`` are there now unless ``agree`` said no, its ``there`` were before.

    Raises:
        ConfigError: it takes a login, a form or a program of the publisher's; a scene that it does not have.
        DataError: a server refuses, or has another file than the card or an earlier fetch; an archive is damaged, or
            would write where it should not.
        StoreError: the disk is full or refuses, or another process fetches into the same folder.
        DependencyError: a library is not installed.
    """
    from lingbot_eval.datasets.cards import load_card
    from lingbot_eval.datasets.fetch import fetch, plan_fetch

    load_plugins()
    found = load_card(name, None if card is None else expanded(Path(card)))
    plan = plan_fetch(found, expanded(Path(root)), several(scenes))
    if agree(plan):
        fetch(plan, progress)
    return plan


def report(
    runs: PathLike | Run | Iterable[PathLike | Run],
    out: PathLike | None = None,
    *,
    labels: Sequence[str] = (),
    html: bool = True,
    notebook: bool = False,
    notebook_page: bool = False,
    interactive: bool = False,
    drawn: Callable[[], object] = lambda: None,
) -> WrittenReport:
    """Write one report of one or more runs.

    Args:
        runs: run directories, or runs.
        out: where it goes; ``RUN/report`` for a single run if left out.
        labels: what to call each run.
        html: also one page with everything inside.
        notebook: also an executed notebook (extra ``notebook``).
        notebook_page: the notebook as a page, too.
        interactive: also each scene in three dimensions, as a page beside it that it shows (extra ``view``).
        drawn: called after each scene and method.

    Returns:
        The files written, the page first, and their content.

    Raises:
        StoreError: no run can be read, or the disk refuses.
        ConfigError: labels that do not fit, or no ``out`` for several runs.
    """
    from lingbot_eval.reports.report import write_report
    from lingbot_eval.stored.store import REPORT

    paths = [_run_path(each) for each in _several(runs)]
    if out is None:
        if len(paths) != 1:
            raise ConfigError(f"a report of {len(paths)} runs needs a folder: give out")
        out = paths[0] / REPORT
    return write_report(
        paths,
        Path(out),
        several(labels),
        html=html,
        notebook=notebook,
        notebook_page=notebook_page,
        interactive=interactive,
        drawn=drawn,
    )


def export(
    run: PathLike | Run,
    out: PathLike,
    formats: Iterable[str] = ("ply", "tum"),
    *,
    units: str = "*",
    scale: Scale | None = None,
    poses: PathLike | None = None,
    share: float | None = None,
    written: Callable[[str], object] = lambda what: None,
) -> Exported:
    """Write what a run kept as files for other programs.

    Args:
        run: a run directory, or a run.
        out: a folder; of several scenes or methods each has ``DATASET/SCENE/METHOD`` in it.
        formats: ``ply``, ``glb``, ``colmap``, ``colmap-binary``, ``nerfstudio``, ``tum``, ``kitti``, ``euroc``,
            ``depth-png``, ``depth-exr``, ``rerun``.
        units: pattern of ``dataset/scene/method`` (``*`` and ``?`` as in file names).
        scale: to metres: a factor, two points in the method's world and their distance in metres, or ``truth``.
        poses: a trajectory file of an outside optimiser: the cloud is made anew on it, from kept depth.
        share: of the cloud's voxels, those of the highest confidence; 0.7 if None.
        written: called with words on what was written.

    Returns:
        Files and notes; a format that a scene lacks the data for is a note where anything else could be written.

    Raises:
        DataError: there is nothing of what the formats need: no poses, cloud, intrinsics or depth.
        ConfigError: a format or a scale that is none, or a pattern that nothing fits.
        DependencyError: a format needs a library that is not there.
        StoreError: the run cannot be read, or the disk refuses; ``out`` is then as it was.
    """
    from lingbot_eval.files.atomic import staged
    from lingbot_eval.files.trajectories import read_trajectory
    from lingbot_eval.runs.plan import opened_images
    from lingbot_eval.stored.disk import component
    from lingbot_eval.stored.store import RunStore
    from lingbot_eval.viewing.cloud import CONFIDENT_SHARE
    from lingbot_eval.viewing.export import Exported, known_formats, write_formats
    from lingbot_eval.viewing.scaled import make_scaled

    asked = known_formats(several(formats))
    store = RunStore.open(_run_path(run))
    record = store.read_run()
    chosen, notes = _results_like(store, units)
    improved = None if poses is None else read_trajectory(expanded(Path(poses)))
    if improved is not None and len(chosen) > 1:
        raise ConfigError(f"poses of one scene, found {len(chosen)} scenes and methods: choose one with units")
    out = expanded(Path(out))
    names: list[Path] = []
    lacking: list[DataError] = []
    left_out: list[str] = []
    with staged(out) as stage:
        for name, unit in chosen.items():
            images = None
            if improved is not None or {"colmap", "colmap-binary", "nerfstudio"} & set(asked):
                try:
                    images = opened_images(record, unit.record)
                except LingbotEvalError as error:
                    notes.append(f"{name}: without images: {error}")
            try:
                scene = make_scaled(
                    unit.reconstruction,
                    name,
                    scale=scale,
                    poses=improved,
                    images=images,
                    share=CONFIDENT_SHARE if share is None else share,
                )
            except DataError as error:
                lacking.append(error)
                left_out.append(f"left out: {error}")
                continue
            notes += [f"{name}: {text}" for text in scene.notes]
            parts = (unit.record.dataset, unit.record.scene, unit.record.method)
            folder = stage if len(chosen) == 1 else stage.joinpath(*map(component, parts))
            without = write_formats(scene, folder, asked, lambda what, name=name: written(f"{name}: {what}"))  # type: ignore[misc]
            lacking += without.values()
            left_out += [f"left out: {form}: {error}" for form, error in without.items()]
        names += [path.relative_to(stage) for path in sorted(stage.rglob("*")) if path.is_file()]
        if not names:
            raise lacking[0]
        for path in sorted(stage.rglob("*"), reverse=True):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
    return Exported(tuple(out / path for path in names), (*notes, *left_out), tuple(left_out))


def render(
    run: PathLike | Run,
    out: PathLike,
    settings: str | os.PathLike[str] | Mapping[str, Any] = "default",
    *,
    set: Mapping[str, Any] | Sequence[str] = (),
    units: str = "*",
    still: int | None = None,
    device: str = "cpu",
    on_frame: Callable[[str, int, int], object] = lambda name, number, total: None,
) -> Films:
    """Draw what a run kept as films, in software: the cloud as it grows, seen by a camera that moves.

    Args:
        run: a run directory, or a run.
        out: the film (``.mp4``) or picture (``.png``) of one scene and method; else a folder for one of each.
        settings: ``default``, ``indoor``, ``outdoor``, a YAML file or a mapping (`FilmSettings`).
        set: settings to change, as of `plan_run`: ``["camera.0.mode=orbit", "size=[1920, 1080]"]``.
        units: pattern of ``dataset/scene/method`` (``*`` and ``?`` as in file names).
        still: one picture at this frame of the stream, instead of a film; -1 is the last.
        device: ``cpu``, or a torch device that draws the points.
        on_frame: called with the unit's name, the number of pictures done and of all.

    Returns:
        Files and notes; a unit that cannot be drawn is a note where others could be.

    Raises:
        ConfigError: settings that are none, a device that this machine lacks, a pattern that nothing fits, nothing kept
            that could be drawn.
        StoreError: the run cannot be read, or the disk refuses; files appear whole or not at all.
    """
    from lingbot_eval.stored.disk import component
    from lingbot_eval.stored.store import RunStore
    from lingbot_eval.viewing.film import Films, Renderer, render_film, save_still

    wanted = _film_settings(settings, set)
    if device != "cpu":
        from lingbot_eval.model.build import choose_device

        device = str(choose_device(device))
    chosen, notes = _results_like(RunStore.open(_run_path(run)), units)
    out, suffix = expanded(Path(out)), ".mp4" if still is None else ".png"
    single = out.suffix.lower() == suffix
    if single and len(chosen) > 1:
        raise ConfigError(f"{out}: expected one scene and method for one file, found {', '.join(chosen)}; see units")
    if not single and out.suffix.lower() in (".mp4", ".png", ".avi", ".mov", ".mkv", ".webm", ".gif", ".jpg"):
        raise ConfigError(f"expected a folder or a name that ends with {suffix}, found {out}")
    files: list[Path] = []
    for name, unit in chosen.items():
        path = out
        if not single:
            path = out / ("-".join(map(component, name.split("/"))) + suffix)
        try:
            if still is None:
                render_film(
                    unit.reconstruction,
                    path,
                    wanted,
                    device=device,
                    on_frame=lambda number, total, name=name: on_frame(name, number, total),  # type: ignore[misc]
                )
            else:
                renderer = Renderer(unit.reconstruction, wanted, device)
                save_still(renderer.picture(renderer.position_of(still)), path)
        except (ConfigError, DataError) as error:
            if len(chosen) == 1:
                raise
            notes.append(f"left out: {name}: {error}")
            continue
        files.append(path)
    if not files:
        raise ConfigError(f"{out}: nothing could be drawn ({'; '.join(notes)})")
    return Films(tuple(files), tuple(notes))


def gate(
    runs: PathLike | Run | Iterable[PathLike | Run],
    *,
    baseline: PathLike | None = None,
    against: PathLike | Run | Iterable[PathLike | Run] | None = None,
    require: Sequence[str] | None = None,
) -> Verdict:
    """Did anything get worse?

    Args:
        runs: run directories, or folders of them: repeats of one run.
        baseline: a baseline file; or
        against: repeats of another run, measured in turn with the first.
        require: families whose verdict decides (``accuracy``, ``speed``, ``memory``); all that are judged if None.

    Returns:
        The verdict: ``findings``, ``of(family)``, ``exit_code`` (0 held, 1 regression, 2 could not be judged).

    Raises:
        ConfigError: neither or both of baseline and against; a baseline that cannot be read.
        StoreError: a run that cannot be read.
    """
    from lingbot_eval.gating.baseline import load_baseline, side_of
    from lingbot_eval.gating.judge import default_tolerances, judge
    from lingbot_eval.gating.sides import FAMILIES, read_runs, run_directories

    if (baseline is None) == (against is None):
        raise ConfigError("gate: give a baseline file, or runs to judge against: one of the two")
    require = None if require is None else several(require)
    unknown = [name for name in require or () if name not in FAMILIES]
    if unknown:
        raise ConfigError(f"gate: require: expected some of {', '.join(FAMILIES)}, found {unknown[0]!r}")
    wanted = None if require is None else tuple(family for family in FAMILIES if family in require)
    side = read_runs(run_directories([_run_path(each) for each in _several(runs)]))
    if against is not None:
        other = read_runs(run_directories([_run_path(each) for each in _several(against)]))
        return judge(other, side, default_tolerances(), wanted)
    kept = load_baseline(Path(baseline or ""))
    return judge(side_of(kept), side, kept.tolerances, wanted)


def update_baseline(
    runs: PathLike | Run | Iterable[PathLike | Run],
    baseline: PathLike,
    *,
    reason: str,
    who: str,
    left_out: Callable[[str], object] = lambda reason: None,
) -> tuple[Baseline | None, Baseline]:
    """Make runs the baseline, which keeps its tolerances and, with this reason, its history.

    Args:
        runs: as of `gate`.
        baseline: the file; it is made where it is not there.
        reason: why the numbers changed.
        who: changed them.
        left_out: called with the reason for each stored unit that is not used (damaged, of another run, not planned).

    Returns:
        The baseline as it was (None for a new one) and as it is.

    Raises:
        ConfigError, StoreError: as `gate`.
    """
    from lingbot_eval.gating.baseline import load_baseline, save_baseline, updated
    from lingbot_eval.gating.sides import read_runs, run_directories

    side = read_runs(run_directories([_run_path(each) for each in _several(runs)]))
    for line in side.problems:
        left_out(line)
    path = Path(baseline)
    old = load_baseline(path) if path.exists() else None
    new = updated(old, side, who, reason)
    save_baseline(path, new)
    return old, new


def compare(a: PathLike | Run, b: PathLike | Run) -> RunComparison:
    """Set two stored runs side by side, scene by scene: agreement of poses, differences of measurements and settings.

    Args:
        a: a run directory, or a run.
        b: the other.

    Returns:
        The comparison; what is not comparable says why.

    Raises:
        StoreError: a run that cannot be read.
    """
    from lingbot_eval.reports.two_runs import compare_runs

    return compare_runs(_run_path(a), _run_path(b))


def compare_backends(
    a: str,
    b: str,
    *,
    experiment: PathLike | Mapping[str, Any] = "smoke",
    set: Mapping[str, Any] | Sequence[str] = (),
    scene: str | None = None,
    frames: int | None = None,
    rounds: int = 5,
    with_reference: bool = True,
    prepared: Callable[[], object] = lambda: None,
    each_frame: Callable[[int | None], None] = lambda total: None,
) -> BackendComparison:
    """Stream the same frames through two backends: agreement frame by frame, speed in turn, memory by kind.

    Args:
        a: ``sdpa``, ``paged``, ``triton``, ``flashinfer``, with a precision as in ``sdpa:bfloat16``, and of keys and
            values where it is another, as in ``triton:float16:8``.
        b: the other.
        experiment: where frames and model come from, as of `plan_run`.
        set: as of `plan_run`.
        scene: one of its scenes; the first if left out.
        frames: only so many.
        rounds: timed passes of each side.
        with_reference: hold both against float32, too.
        prepared: called once the frames are known, before hours are spent on them.
        each_frame: called after each frame with the number of all frames of all passes, where that is known.

    Returns:
        The comparison.

    Raises:
        ConfigError, DataError, CheckpointError: as `plan_run`.
    """
    from lingbot_eval.comparison.backends import compare_backends
    from lingbot_eval.comparison.contenders import PreparedFrames, select
    from lingbot_eval.runs.experiment import load_experiment

    selected = select(load_experiment(experiment, set), scene, frames)
    images = PreparedFrames(selected.unit)
    prepared()
    length = images.sequence.length
    total = None if length is None else length * (2 * rounds + 1)
    return compare_backends(
        a, b, selected, images, lambda: each_frame(total), rounds=rounds, with_reference=with_reference
    )


def verify(
    folder: PathLike | None = None,
    *,
    cases: Sequence[str] = (),
    backend: Backend = "sdpa",
    dtype: str = "float32",
    cache_precision: Literal[8] | None = None,
    device: str = "cpu",
) -> Iterator[Comparison]:
    """Rebuild the reference cases and compare: can this machine be trusted?

    Args:
        folder: ``cases.json`` and arrays; the shipped small set if None.
        cases: only these.
        backend: where keys and values live.
        dtype: precision of the trunk.
        cache_precision: 8 keeps keys and values in 8 bits.
        device: ``cpu``, ``cuda`` …

    Yields:
        One comparison an array, with its verdict ``pass``, ``fail``, ``unsupported`` or ``incomparable``.

    Raises:
        DataError, ConfigError: cases that cannot be read; a device that is not there.
    """
    from lingbot_eval.model.build import choose_device
    from lingbot_eval.settings import validated
    from lingbot_eval.streaming.settings import StreamSettings
    from lingbot_eval.verification.cases import load_cases, shipped_cases
    from lingbot_eval.verification.reproduce import Setup
    from lingbot_eval.verification.reproduce import verify as run_cases

    known = load_cases(shipped_cases() if folder is None else Path(folder), several(cases))
    # Checked here: what runs is a copy of each case's own settings.
    validated(StreamSettings, {"backend": backend, "cache_precision": cache_precision}, "verify")
    return run_cases(known, Setup(backend, dtype, choose_device(device), cache_precision))


def check_wrapper(
    command: Sequence[str], *, mode: Literal["pipe", "job"] | None = None, timeout_s: float = 600
) -> Iterator[WrapperCheck]:
    """Run a wrapper of an outside method on ten made-up frames, whose truth is known.

    Args:
        command: program and arguments, as of a method of ``kind: external``. It is run.
        mode: ``pipe`` or ``job``; both if None.
        timeout_s: seconds that it may take, loading included.

    Yields:
        For each mode what is wrong, in lines: ``problems``, ``notes``.

    Raises:
        ConfigError: a program that is not there.
    """
    from lingbot_eval.verification.wrapper import MODES, check_wrapper

    if isinstance(command, str):
        raise ConfigError(f"command: expected its words, as ['python', 'wrap.py'], found the text {command!r}")
    return check_wrapper(command, MODES if mode is None else (mode,), timeout_s)


def view(
    what: PathLike | Run,
    *,
    root: PathLike | None = None,
    model: str | Model | None = "shipped",
    config: Literal["full", "mini", "ci"] | None = None,
    device: str = "auto",
    frames: int | None = None,
    stride: int | None = None,
    sky: str = "heuristic",
    html: PathLike | None = None,
    colour: Colouring = "picture",
    points: int | None = None,
    port: int = 8080,
) -> Viewer | LiveViewer | None:
    """Look at a reconstruction in the browser; of images, while the model makes it.

    The page of images lives in a process of its own, which ends with this one; what it cannot take in time it does
    without, and the stream does not wait.

    Args:
        what: a run directory, or a run: each dataset and scene of it is chosen on the page, its methods beside each
            other, after Sim(3), and the truth. Or images: a folder, a video, ``camera:0``, an RTSP address, or
            ``DATASET/SCENE``.
        root: of a dataset, where it is read from disk.
        model: for images: from `load_model`, or what it takes as ``weights``.
        config: as of `load_model`.
        device: as of `load_model`.
        frames: of images, at most so many.
        stride: of images, every so many; as the dataset's card says if left out.
        sky: of images: what tells it from the rest, as ``keep.sky``; the page shows and hides it.
        html: write one HTML file of the first scene instead, which needs no server and no network.
        colour: of points: ``picture``, ``error``, ``confidence``, ``height``, ``frame``, ``method``.
        points: of each method at most; larger voxels show more. Two million if left out.
        port: of the page, which only this machine reaches; the next free one where another program has it.

    Returns:
        The page's server (``address``, ``wait()``, ``stop()``, ``filling`` where images are streamed); None where a
        file was written.

    Raises:
        ConfigError: words that name nothing, or settings that cannot be.
        StoreError: a run that kept nothing to be seen, or a disk that refuses.
        DataError: images that cannot be read.
        CheckpointError: as `load_model`.
        DependencyError: viser is not installed (extra ``view``).
    """
    from lingbot_eval.reports.reading import Run
    from lingbot_eval.stored.store import RUN_FILE
    from lingbot_eval.viewing.cloud import LEAST_VOXELS, MAX_VOXELS
    from lingbot_eval.viewing.layers import COLOURINGS
    from lingbot_eval.viewing.live import LiveViewer
    from lingbot_eval.viewing.page import Viewer, need_viser, write_page

    need_viser()
    if colour not in COLOURINGS:
        raise ConfigError(f"colour: expected {', '.join(COLOURINGS)}, found {colour!r}")
    budget = MAX_VOXELS if points is None else points
    if not LEAST_VOXELS <= budget <= 25 * MAX_VOXELS:
        raise ConfigError(f"points: expected {LEAST_VOXELS} to {25 * MAX_VOXELS}, found {budget}")
    if not 0 <= port < 65536:
        raise ConfigError(f"port: expected 0 (any) to 65535, found {port}")
    if isinstance(what, Run) or (expanded(Path(what)) / RUN_FILE).is_file():
        title, scenes = _scenes_of(what)
        if html is not None:
            write_page(Path(html), next(iter(scenes.values()))(), colouring=colour, points=budget)
            return None
        return Viewer(title, scenes, port=port, colouring=colour, points=budget)
    scene, pairs, camera = _streamed(what, root, model, config, device, frames, stride, budget, sky)
    if html is None:
        return LiveViewer(scene, pairs, camera, port=port, colouring=colour)
    layer = scene.layer()
    with closing(pairs):
        for pair in pairs:
            layer.add(*pair)
    layer.complete = True
    write_page(Path(html), scene.layered(layer), colouring=colour, points=budget)
    return None


def _scenes_of(given: PathLike | Run) -> tuple[str, dict[str, OpenScene]]:
    """What a run shows: a title, and its scenes by dataset and name. Raises StoreError where there is none."""
    from functools import partial

    from lingbot_eval.reports.reading import Run, open_run
    from lingbot_eval.viewing.layers import LayeredScene

    run = given if isinstance(given, Run) else open_run(_run_path(given))
    units: dict[str, list[StoredUnit[UnitRecord]]] = {}
    for unit in _results_like(run.store, "*")[0].values():
        units.setdefault(f"{unit.record.dataset}/{unit.record.scene}", []).append(unit)

    def opened(name: str) -> LayeredScene:
        kept = [(unit.record.method, unit.reconstruction) for unit in units[name]]
        return LayeredScene.stored(f"{run.label}: {name}", kept)

    return run.label, {name: partial(opened, name) for name in units}


def _streamed(
    what: PathLike,
    root: PathLike | None,
    model: str | Model | None,
    config: Literal["full", "mini", "ci"] | None,
    device: str,
    frames: int | None,
    stride: int | None,
    points: int,
    sky: str,
) -> tuple[LiveScene, Pairs, Camera | None]:
    """A scene that grows while the model streams images into it, what it grows of, and the camera if it is one's."""
    from itertools import islice

    from lingbot_eval.methods.model import Model, load_model
    from lingbot_eval.viewing.live import Camera, LiveScene, is_camera, numbered

    text = os.fspath(what)
    camera = Camera(text) if is_camera(text) else None
    found = None if camera is not None else _images(text, root, stride, frames)
    loaded = model if isinstance(model, Model) else load_model(model, config=config, device=device)
    length = frames if found is None else found.length
    # Of a camera nobody knows the end, and what is kept is kept for ever.
    session = loaded.session(frames=length, keyframe_interval="auto" if length else _CAMERA_INTERVAL)
    given: Iterable[Any] = found if found is not None else numbered(islice(camera or (), frames))
    label = f"{loaded.config}, {loaded.weights}"
    truth = None if found is None else found.reference()
    title = text if found is None or found.name == text else f"{found.name} ({text})"
    return LiveScene(title, label, length, truth, sky, points), session.with_frames(given), camera


def _images(text: str, root: PathLike | None, stride: int | None, count: int | None) -> Scene:
    """The images that words name: a folder, a video file, DATASET/SCENE. Raises ConfigError when they name nothing."""
    from lingbot_eval.datasets.cards import open_dataset
    from lingbot_eval.datasets.registry import DATASETS
    from lingbot_eval.datasets.video import VIDEO_SUFFIXES
    from lingbot_eval.files.images import HEIF_SUFFIXES, IMAGE_SUFFIXES

    path = expanded(Path(text))
    name, _, scene = text.partition("/")
    if root is None and path.is_dir():
        names = [each.name.lower() for each in path.iterdir()]
        only_films = any(each.endswith(VIDEO_SUFFIXES) for each in names) and not any(
            each.endswith((*IMAGE_SUFFIXES, *HEIF_SUFFIXES)) for each in names
        )
        return open_dataset("video" if only_films else "folder", path).scene(stride=stride, count=count)
    if root is None and path.exists():
        return open_dataset("video", path).scene(stride=stride, count=count)
    if name in DATASETS.names():
        given = None if root is None else expanded(Path(root))
        return open_dataset(name, given).scene(scene or None, stride=stride, count=count)
    raise ConfigError(
        "view: expected a run directory, a folder of images, a video, camera:0, an RTSP address or DATASET/SCENE;"
        f" there is no {text}"
    )


def _film_settings(
    settings: str | os.PathLike[str] | Mapping[str, Any], set: Mapping[str, Any] | Sequence[str]
) -> FilmSettings:
    """A preset, a file or a mapping with changes put in; what a preset leaves alone can be changed, too."""
    from lingbot_eval.runs.experiment import settings_document
    from lingbot_eval.settings import nearest, validated
    from lingbot_eval.viewing.film import PRESETS, FilmSettings

    if isinstance(settings, str) and settings in PRESETS:
        given: Mapping[str, Any] = PRESETS[settings].model_dump(mode="json")
        where = f"film {settings}"
    elif isinstance(settings, str) and not Path(settings).suffix and not Path(settings).is_file():
        raise ConfigError(f"no film {settings!r}{nearest(settings, PRESETS)}; there are: {', '.join(PRESETS)}")
    else:
        given, where = settings_document(settings)
    whole = {**FilmSettings().model_dump(mode="json"), **given}
    return validated(FilmSettings, settings_document(whole, set)[0], where)


def _results_like(store: RunStore, pattern: str) -> tuple[dict[str, StoredUnit[UnitRecord]], list[str]]:
    """Units with results whose ``dataset/scene/method`` fits, and a note for each that has none.

    Raises ConfigError when nothing fits, StoreError when the run cannot be read.
    """
    from fnmatch import fnmatchcase

    stored = store.read_units()
    notes = [f"left out: {each.reason}" for each in stored.left_out]
    named = {"/".join((unit.record.dataset, unit.record.scene, unit.record.method)): unit for unit in stored.units}
    chosen = {name: unit for name, unit in named.items() if fnmatchcase(name, pattern) and unit.record.status == "ok"}
    notes += [f"left out: {name}: {unit.record.reason}" for name, unit in named.items() if unit.record.status != "ok"]
    if not chosen:
        there = (
            f"there are: {', '.join(named)}" if named else f"it has none ({'; '.join(notes) or 'nothing is stored'})"
        )
        raise ConfigError(f"{store.path}: expected a scene with results like {pattern!r}; {there}")
    return chosen, notes


def _several(given: Any) -> list[Any]:
    from lingbot_eval.reports.reading import Run

    return [given] if isinstance(given, str | os.PathLike | Run) else list(given)


def _run_path(given: Any) -> Path:
    from lingbot_eval.reports.reading import Run

    return given.path if isinstance(given, Run) else expanded(Path(given))


def _repeat(experiment: PathLike | Mapping[str, Any], set: Mapping[str, Any] | Sequence[str], out: PathLike) -> str:
    """The command that repeats a run which a script began."""
    from lingbot_eval.runs.experiment import override_words, repeated

    if isinstance(experiment, Mapping):
        return "lingbot_eval.run({…}) of a script: the settings are in this record"
    words = ["lingbot-eval", "run", str(experiment)]
    words += [word for text in override_words(set) for word in ("--set", text)]
    return repeated(words if Path(out) == RUNS else [*words, "--out", str(out)], experiment, set)
