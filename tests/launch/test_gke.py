"""The manifests fit the published schemas, and the variables that they set lead to the right processes.

JobSet's schema comes from the package kubeflow-trainer-api, that of Jobs and Pods inside it from kubernetes-validate.
"""

import copy
import json
import os
import pathlib
import re
import string
import tomllib

import kubernetes_validate
import pydantic
import pytest
import yaml
from kubeflow_trainer_api import models

from experiments.shared import processes

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "launch/gke"
KUBERNETES = "1.33"
VALUES = {
    "RUN": "side-branch",
    "IMAGE": "registry/mirage:1",
    "BUCKET": "bucket",
    "CONFIG": "experiments/configs/default_generator.py",
    "FLAGS": "--config.steps=20000",
}
TPU_VALUES = VALUES | {"TPU": "tpu-v5-lite-podslice", "TOPOLOGY": "4x4", "HOSTS": "4", "SLICES": "2"}
GPU_VALUES = VALUES | {"GPU": "nvidia-h100-80gb", "NODES": "3"}
MANIFESTS = {"tpu.yaml": TPU_VALUES, "gpu.yaml": GPU_VALUES}


def load(name):
    """As `envsubst` leaves it; a variable that the header does not explain raises KeyError."""
    text = (FOLDER / name).read_text()
    body = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    return yaml.safe_load(string.Template(body).substitute(MANIFESTS[name]))


def validate(manifest):
    """Raises if a field is unknown, missing or of the wrong type, at any depth."""
    jobs = manifest["spec"]["replicatedJobs"]
    outer = manifest | {"spec": manifest["spec"] | {"replicatedJobs": [job | {"template": {}} for job in jobs]}}
    models.JobsetV1alpha2JobSet.model_validate(outer, extra="forbid")
    for job in jobs:
        document = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}, **job["template"]}
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def job_of(manifest):
    return manifest["spec"]["replicatedJobs"][0]["template"]["spec"]


def pod_of(manifest):
    return job_of(manifest)["template"]["spec"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_fits_the_published_schemas(name):
    validate(load(name))


def set_at(*path, value):
    def change(manifest):
        *parents, last = path
        for key in parents:
            manifest = manifest[key]
        manifest[last] = value

    return change


_JOB = ("spec", "replicatedJobs", 0, "template", "spec")
_CONTAINER = (*_JOB, "template", "spec", "containers", 0)


@pytest.mark.parametrize(
    "change",
    [
        set_at("spec", "failurePolicy", "maxRestart", value=3),
        set_at("spec", "failurePolicy", "maxRestarts", value="3"),
        set_at("spec", "network", "enableDNSHostname", value=True),
        set_at("spec", "replicatedJobs", 0, "replica", value=3),
        set_at(*_JOB, "completionModes", value="Indexed"),
        set_at(*_JOB, "parallelism", value="four"),
        set_at(*_JOB, "podFailurePolicy", "rules", 0, "onExitCode", value={}),
        set_at(*_JOB, "template", "spec", "terminationGracePeriod", value=3),
        set_at(*_CONTAINER, "port", value=[]),
        set_at(*_CONTAINER, "ports", 0, "containerPort", value="http"),
        lambda manifest: manifest["spec"]["replicatedJobs"][0].pop("name"),
        lambda manifest: pod_of(manifest)["containers"][0].pop("name"),
    ],
)
def test_a_wrong_field_is_found(change):
    manifest = copy.deepcopy(load("gpu.yaml"))
    change(manifest)
    with pytest.raises((pydantic.ValidationError, kubernetes_validate.ValidationError)):
        validate(manifest)


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_header_explains_every_variable(name):
    text = (FOLDER / name).read_text()
    header = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    used = set(re.findall(r"\$\{(\w+)\}", text))
    assert used == set(MANIFESTS[name])
    exported = set(re.findall(r"(\w+)=", " ".join(re.findall(r"export (.*)", header)).partition("--")[0])) | {"FLAGS"}
    assert used <= exported | set(re.findall(r"(\w+)=", header))


@pytest.mark.parametrize("name", MANIFESTS)
def test_restarts_as_a_whole_and_stops_that_saved_do_not_count(name):
    manifest = load(name)
    job, pod = job_of(manifest), pod_of(manifest)
    assert job["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"
    assert job["completions"] == job["parallelism"]
    exit_codes = job["podFailurePolicy"]["rules"][0]
    assert (exit_codes["action"], exit_codes["onExitCodes"]["values"]) == ("FailJob", [75])
    assert exit_codes["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    rule = manifest["spec"]["failurePolicy"]["rules"][0]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("RestartJobSetAndIgnoreMaxRestarts", ["PodFailurePolicy"])
    assert pod["terminationGracePeriodSeconds"] >= 120


def test_pods_of_the_gpu_manifest_are_processes():
    manifest = load("gpu.yaml")
    entries = pod_of(manifest)["containers"][0]["env"]
    (numbered,) = [entry["name"] for entry in entries if "valueFrom" in entry]
    field = next(entry for entry in entries if entry["name"] == numbered)["valueFrom"]["fieldRef"]["fieldPath"]
    assert field == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    given = {entry["name"]: entry["value"] for entry in entries if "value" in entry}
    found = [processes.find(given | {numbered: str(i), "JOB_COMPLETION_INDEX": str(i)}) for i in range(3)]
    assert [(p.source, p.count, p.index) for p in found] == [("variables", 3, i) for i in range(3)]
    name, group = manifest["metadata"]["name"], manifest["spec"]["replicatedJobs"][0]
    assert group["replicas"] == 1  # the pods of one job are counted
    assert {p.coordinator for p in found} == {f"{name}-{group['name']}-0-0.{name}:8476"}  # JobSet's name of the first
    ports = [port["containerPort"] for port in pod_of(manifest)["containers"][0]["ports"]]
    assert int(found[0].coordinator.split(":")[1]) in ports


def test_the_image_holds_what_the_commands_need():
    lines = (ROOT / "launch/Dockerfile").read_text().splitlines()
    copied = {word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]}
    assert copied >= {"pyproject.toml", "constraints.txt", "mirage_jax", "experiments", "launch"}
    assert all((ROOT / name).exists() for name in copied)
    (entry,) = [json.loads(line.removeprefix("ENTRYPOINT ")) for line in lines if line.startswith("ENTRYPOINT ")]
    assert os.access(ROOT / entry[0], os.X_OK)
    # Every EXTRA that the recipe lets through is one that the package has.
    (let_through,) = [line for line in lines if 'case "$EXTRA" in' in line]
    names = let_through.partition(" in ")[2].partition(")")[0].split("|")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert names == ["cuda12", "cuda13", "tpu"] and {"data", "text", *names} <= set(extras)


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_train_with_the_flags_of_their_devices(name):
    command = pod_of(load(name))["containers"][0]["command"][-1]
    assert command.startswith("exec launch/with_flags.sh python -m experiments.train ")
