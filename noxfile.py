"""The ways in: ``nox -s eval`` is the main job, ``compare`` compares; ``tests``, ``lint``, ``types``, ``gate`` watch.

Every session takes further arguments after ``--``: ``nox -s tests -- tests/metrics -k depth``.
All share one environment, installed once by the session ``environment``, which the others require;
``nox -R -s tests`` skips the look whether it is up to date.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests", "gate"]


@nox.session(default=False)
def environment(session: nox.Session) -> None:
    """Install the package in place with its development tools, at the versions of constraints.txt."""
    # Of torch and the rest a small part is ever imported; Python compiles that as it is asked for.
    session.install("--no-compile", "-c", "constraints.txt", "-e", ".[dev]")


def run(session: nox.Session, program: str, *arguments: str, env: dict[str, str | None] | None = None) -> None:
    """Run a program of the shared environment."""
    # What one process compiles serves those after it, whatever this machine says of that.
    keep_compiled: dict[str, str | None] = {"PYTHONDONTWRITEBYTECODE": None}
    session.run(shared_environment(session) / program, *arguments, env=keep_compiled | (env or {}))


def shared_environment(session: nox.Session) -> Path:
    """The folder of programs of the environment that the session ``environment`` made, for the Python of this call."""
    # With --force-python nox adds the version to the environment's name.
    name = f"environment-{session.python.replace('.', '-')}" if isinstance(session.python, str) else "environment"
    found = session.cache_dir.parent / name / "bin"
    if not found.is_dir():
        session.error(f"no environment {found.parent}: run without -R once")
    return found


def provide_browser(session: nox.Session) -> None:
    """Have a browser for the tests of the viewer's page, where Debian's packages can be installed; else they skip."""
    if shutil.which("chromium") and shutil.which("chromedriver"):
        return
    if not shutil.which("apt-get") or os.geteuid():
        session.warn("no chromium and chromedriver: the tests of the viewer's page will be skipped")
        return
    for words in (
        ["update", "-qq"],
        ["install", "-y", "-qq", "--no-install-recommends", "chromium", "chromium-driver"],
    ):
        # Without a network, or on another system, the suite is still worth running.
        session.run("apt-get", *words, external=True, silent=True, success_codes=range(256))


@nox.session(name="eval", python=False, requires=["environment"])
def evaluate(session: nox.Session) -> None:
    """Run the main job on its default, or on the experiment given: stream, score, report."""
    run(session, "lingbot-eval", "run", *(session.posargs or ["smoke"]))


@nox.session(python=False, requires=["environment"])
def compare(session: nox.Session) -> None:
    """Compare the backends of this machine, or what is given: sdpa against FlashInfer on a GPU, else against pages."""
    sides = ["sdpa", "paged"]
    if not session.posargs and shutil.which("nvidia-smi"):
        extra = ("install", "-c", "constraints.txt", "-e", ".[flashinfer]")
        uv, python = shutil.which("uv"), str(shared_environment(session) / "python")
        # An environment that uv made has no pip of its own.
        install = [uv, "pip", *extra, "--python", python] if uv else [python, "-m", "pip", *extra]
        session.run(*install)
        sides = ["sdpa:bfloat16", "flashinfer:bfloat16"]
    run(session, "lingbot-eval", "compare", *(session.posargs or sides))


@nox.session(python=False, requires=["environment"])
def report(session: nox.Session) -> None:
    """Report the runs given, or the latest under runs/; ``-- --notebook`` adds a notebook."""
    run(session, "lingbot-eval", "report", *session.posargs)


@nox.session(python=False, requires=["environment"])
def tests(session: nox.Session) -> None:
    """Run the test suite, a worker a core, in random order (slow and GPU cases by marker: ``-- -m slow``; ``-- -n 0``
    runs it in one process, ``-- -p no:randomly`` in the order of the files)."""
    provide_browser(session)
    # One thread in each worker: two workers with two threads each on two cores wait for each other most of the time.
    one_thread: dict[str, str | None] = {"OMP_NUM_THREADS": "1"}
    # worksteal hands out neighbours, which share their expensive fixtures, and still ends both workers together.
    run(session, "pytest", "-n", "auto", "--dist", "worksteal", *session.posargs, env=one_thread)


@nox.session(python=False, requires=["environment"])
def mutants(session: nox.Session) -> None:
    """Plant faults into the rooms given and print which the tests let pass: ``-- metrics --count 20 --seed 1``."""
    run(session, "python", "-m", "tests.support.mutants", *session.posargs)


@nox.session(python=False, requires=["environment"])
def gate(session: nox.Session) -> None:
    """Hold the smoke run, through both caches, against its baseline; ``-- --update --reason "why"`` renews it."""
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    options = ["--markdown", summary] if summary and not session.posargs else session.posargs
    # Speed is not judged there, and on cores that others use too, threads that wait for each other take minutes.
    one_thread: dict[str, str | None] = {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        run(session, "lingbot-eval", "run", "ci_gate", "--no-report", "--out", folder, env=one_thread)
        run(session, "lingbot-eval", "gate", folder, "--baseline", "reports/baselines/ci_gate.yaml", *options)


@nox.session(python=False, requires=["environment"])
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    run(session, "ruff", "check", *session.posargs)
    run(session, "ruff", "format", "--check", *session.posargs)


@nox.session(python=False, requires=["environment"])
def types(session: nox.Session) -> None:
    """Check the types, strictly."""
    run(session, "mypy", *session.posargs)


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Build the documents into build/docs; a broken link or reference fails. The pages are read, not imported."""
    session.install(*nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]["docs"])
    session.run("mkdocs", "build", "--strict", *session.posargs)
