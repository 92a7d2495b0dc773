"""PyPI's client of Prometheus, whose parser of OpenMetrics is strict, on what `GET /metrics` answers."""

import urllib.error
import urllib.request

from checks import GUARDED_URL, MODEL, TOKEN, URL, check, equal, main
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as plain_families


def scrape(accept):
    request = urllib.request.Request(f"{URL}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


@check
def openmetrics_is_valid():
    kind, text = scrape("application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text; version=1.0.0"), kind
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert len(families) > 40, sorted(families)
    assert all(name.startswith("rbee_hive_") for name in families), sorted(families)
    assert all(family.documentation for family in families.values())
    jobs = families["rbee_hive_jobs"]
    equal(jobs.type, "counter")
    assert all(set(sample.labels) == {"operation", "outcome"} for sample in jobs.samples), jobs
    equal(families["rbee_hive_job_duration_seconds"].unit, "seconds")


@check
def plain_text_has_the_same_samples():
    def names(families):
        return {sample.name for family in families for sample in family.samples}

    _, open_text = scrape("application/openmetrics-text")
    kind, plain = scrape("text/plain")
    assert kind.startswith("text/plain; version=0.0.4"), kind
    equal(names(plain_families(plain)), names(text_string_to_metric_families(open_text)))


@check
def a_request_is_counted():
    before = answered()
    body = b'{"model":"%s","messages":[{"role":"user","content":"Hi"}]}' % MODEL.encode()
    request = urllib.request.Request(
        f"{URL}/v1/chat/completions", data=body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        answer.read()
    equal(answered() - before, 1)


def answered():
    _, text = scrape("application/openmetrics-text")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = families["rbee_hive_requests"].samples
    return sum(sample.value for sample in samples if sample.labels["outcome"] == "completed")


@check
def the_metrics_are_not_for_everybody():
    for headers, status in (({}, 401), ({"Authorization": f"Bearer {TOKEN}"}, 200)):
        request = urllib.request.Request(f"{GUARDED_URL}/metrics", headers=headers)
        try:
            with urllib.request.urlopen(request) as answer:
                found = answer.status
        except urllib.error.HTTPError as error:
            found = error.code
        equal(found, status)


main()
