"""Runs a set of cases and yields the verdicts as they come."""

from __future__ import annotations

from collections.abc import Iterator

from lingbot_eval.model.network import GeometricContextTransformer
from lingbot_eval.verification.cases import Case, CaseSet, Unsupported
from lingbot_eval.verification.compare import Comparison, compare, other_keyframes
from lingbot_eval.verification.reproduce import Setup, reference_model, reproduce


def verify(cases: CaseSet, setup: Setup) -> Iterator[Comparison]:
    """One comparison an array and case; a case that cannot be run is one comparison that says so.

    Raises DataError for a reference file that cannot be read.
    """
    model: GeometricContextTransformer | None = None
    built_for: tuple[str, bool] | None = None
    for name, case in cases.cases.items():
        if isinstance(case, Unsupported):
            yield Comparison(name, "", None, None, "unsupported", case.reason)
            continue
        wanted = cases.reference(name)
        if model is None or built_for != _network(case):
            model, built_for = None, _network(case)  # the old one goes before the new one is built
            model = reference_model(case, setup)
        found = reproduce(case, setup, model)
        other = other_keyframes(found, wanted) if case.flow_threshold and not setup.exact else ""
        if other:
            yield Comparison(name, "", None, None, "incomparable", other)
            continue
        for array, reference in wanted.items():
            yield compare(
                name,
                array,
                found.get(array),
                reference,
                setup.precision,
                cache_precision=setup.cache_precision,
                one_stream=case.kind != "windowed",
            )


def _network(case: Case) -> tuple[str, bool]:
    return case.model, case.point_head
