"""Requests that a machine makes up from the OpenAPI document: the server always answers, and as the document says."""

from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serve.made_server import serving_at

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)


@pytest.fixture(scope="module")
def brief(made):
    """A server of short answers."""
    with serving_at(made(new=8)) as running:
        yield running


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_made_up_request_is_answered(brief, mode):
    document = schemathesis.openapi.from_url(f"{brief.url}/openapi.json")
    statuses: Counter[int] = Counter()

    def check_all(operation) -> None:
        @settings(max_examples=40, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(operation.as_strategy(generation_mode=mode))
        def check(case) -> None:
            response = case.call(timeout=60)
            statuses[response.status_code] += 1
            case.validate_response(response, checks=CHECKS)

        check()

    for found in document.get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.POSITIVE or operation.body:
            check_all(operation)
    assert statuses[200] or mode is GenerationMode.NEGATIVE
    assert statuses[400], statuses
    assert brief.get("/ready").status_code == 200


def test_the_document_names_what_there_is(tiny):
    paths = tiny.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        "/", "/v1/chat/completions", "/v1/models", "/v1/models/{name}", "/health", "/ready", "/metrics",
    }  # fmt: skip
    for path, method in (("/", "post"), ("/v1/chat/completions", "post")):
        body = paths[path][method]["requestBody"]["content"]["application/json"]["schema"]
        assert "$ref" in body
