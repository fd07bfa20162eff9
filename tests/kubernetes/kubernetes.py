#!/usr/bin/env python3
"""The chart of deploy/helm and the manifests of deploy/kubernetes: Helm renders them, each resource fits its schema, what
names another resource finds it, and Gannet takes the configuration in them and answers the probes.
Ends with "kubernetes: N passed, M failed".

    kubernetes.py GANNET TOOLS    TOOLS: the folder that `tools` filled
"""

import base64
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import jsonschema
import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CHART = ROOT / "deploy/helm/gannet"
PLAIN = ROOT / "deploy/kubernetes"
PATIENCE = 60
# The oldest that the chart says it takes, and the newest that there are schemas of.
VERSIONS = ("1.30", "1.37")
# What a Secret of the user's has in it.
KEYS = {"GANNET_CLIENT_TOKEN_HMAC_SECRET_KEY": "k" * 63 + "1", "GANNET_HTTP_API_KEY": "a" * 63 + "2"}


def run(*command, **more):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120, **more)
    assert done.returncode == 0, f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


class Tools:
    def __init__(self, gannet, folder):
        self.gannet, self.helm, self.kubectl = gannet, folder / "helm", folder / "kubectl"
        self.own = {}
        for path in folder.glob("*.yaml"):
            definition = yaml.safe_load(path.read_text())["spec"]
            for version in definition["versions"]:
                kind = (f"{definition['group']}/{version['name']}", definition["names"]["kind"])
                self.own[kind] = closed(version["schema"]["openAPIV3Schema"])

    def render(self, *words, version="1.37"):
        text = run(self.helm, "template", "gannet", CHART, "--namespace", "edge", "--kube-version", version, *words)
        return [resource for resource in yaml.safe_load_all(text) if resource]

    def fits(self, resource, version):
        kind = (resource["apiVersion"], resource["kind"])
        if kind in self.own:
            jsonschema.validate(resource, self.own[kind])
        else:
            kubernetes_validate.validate(resource, version, strict=True)


def closed(schema):
    """With names that are not in it refused, as a strict API server does."""
    if isinstance(schema, list):
        return [closed(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(inner) for key, inner in schema.items()}
    free = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if "(?i)" in str(schema.get("pattern")):
        # Go takes a flag in the middle.
        made["pattern"] = "(?i)" + schema["pattern"].replace("(?i)", "")
    # `properties` is a keyword here, and not the name of a field that a resource has, where it maps to schemas.
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict) and not free:
        made["additionalProperties"] = False
        if "apiVersion" in made["properties"]:
            made["properties"]["metadata"] = {"type": "object"}
    return made


def examples():
    return [(), *(("--values", path) for path in sorted((CHART / "examples").glob("*.yaml")))]


def one(resources, kind, name=None):
    found = [it for it in resources if it["kind"] == kind and name in (None, it["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def pod_of(resources):
    return one(resources, "Deployment")["spec"]["template"]


def container_of(resources):
    [container] = pod_of(resources)["spec"]["containers"]
    return container


def every_resource_fits(tools):
    kinds = set()
    for words in examples():
        for version in VERSIONS:
            for resource in tools.render(*words, version=version):
                tools.fits(resource, version)
                kinds.add(resource["kind"])
    wanted = {"Ingress", "HTTPRoute", "HorizontalPodAutoscaler", "ScaledObject", "ServiceMonitor", "PrometheusRule", "Secret"}
    assert wanted <= kinds, f"no example has {wanted - kinds}"
    # What a wrong name would do.
    wrong = one(tools.render(*examples()[1]), "Deployment")
    wrong["spec"]["template"]["spec"]["terminationGracePeriod"] = 1
    with contextlib.suppress(kubernetes_validate.ValidationError):
        tools.fits(wrong, VERSIONS[-1])
        raise AssertionError("a field that there is not was taken")
    monitor = one(tools.render("--set", "serviceMonitor.enabled=true"), "ServiceMonitor")
    monitor["spec"]["endpoint"] = []
    with contextlib.suppress(jsonschema.ValidationError):
        tools.fits(monitor, VERSIONS[-1])
        raise AssertionError("a field that a ServiceMonitor has not was taken")


def helm_finds_no_fault(tools):
    for words in examples():
        run(tools.helm, "lint", "--strict", CHART, *words)


def names_find_what_they_name(tools):
    for words in examples():
        resources = tools.render(*words)
        names = [(it["kind"], it["metadata"]["name"]) for it in resources]
        assert len(names) == len(set(names)), names
        template, container = pod_of(resources), container_of(resources)
        labels, ports = template["metadata"]["labels"], {port["name"]: port for port in container["ports"]}
        for service in (it for it in resources if it["kind"] == "Service"):
            assert service["spec"]["selector"].items() <= labels.items(), service
            assert all(port["targetPort"] in ports for port in service["spec"]["ports"]), service
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["port"] in ports
        for budget in (it for it in resources if it["kind"] == "PodDisruptionBudget"):
            assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
        for monitor in (it for it in resources if it["kind"] == "ServiceMonitor"):
            wanted = monitor["spec"]["selector"]["matchLabels"]
            [service] = [it for it in resources if it["kind"] == "Service" and wanted.items() <= it["metadata"]["labels"].items()]
            assert [port["name"] for port in service["spec"]["ports"]] == [monitor["spec"]["endpoints"][0]["port"]]
            assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "gannet", "what alerts ask for"
        scaled = any(it["kind"] in ("HorizontalPodAutoscaler", "ScaledObject") for it in resources)
        assert ("replicas" in one(resources, "Deployment")["spec"]) != scaled, "who sets the number of pods"
        secret = container["envFrom"][0]["secretRef"]["name"]
        assert secret == "gannet-keys" or one(resources, "Secret", secret)
        one(resources, "ConfigMap", template["spec"]["volumes"][0]["configMap"]["name"])


def variables(resources, container):
    """What the container has in its environment."""
    said = dict(KEYS)
    secret = container["envFrom"][0]["secretRef"]["name"]
    for resource in resources:
        if resource["kind"] == "Secret" and resource["metadata"]["name"] == secret:
            said = {key: base64.b64decode(value).decode() for key, value in resource["data"].items()}
    for entry in container["env"]:
        said[entry["name"]] = entry.get("value", "gannet-0")
    return {"PATH": os.environ["PATH"], **said}


def mounted(resources, folder):
    """The configuration as the container sees it, with its certificate in `folder`."""
    text = one(resources, "ConfigMap", "gannet")["data"]["config.json"]
    if "/etc/gannet-tls" in text:
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=localhost", "-keyout", folder / "tls.key", "-out", folder / "tls.crt")  # fmt: skip
    path = folder / "config.json"
    path.write_text(text.replace("/etc/gannet-tls", str(folder)))
    return path


def gannet_takes_the_configuration(tools):
    for words in examples():
        resources = tools.render(*words)
        container = container_of(resources)
        assert container["args"] == ["--config", "/etc/gannet/config.json"]
        with tempfile.TemporaryDirectory() as folder:
            path = mounted(resources, pathlib.Path(folder))
            environment = variables(resources, container)
            said = run(tools.gannet, "check", "--config", path, "--http_server.port", 0, env=environment)
            assert said == "config ok\n", f"{words}: {said}"
            config = json.loads(path.read_text())
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        server = config["http_server"]
        assert (ports["external"], ports["internal"]) == (server["port"], server["internal_port"])
        assert ("grpc" in ports, "uni-grpc" in ports) == (config["grpc_api"]["enabled"], config["uni_grpc"]["enabled"])
        seconds = {key: int(value.removesuffix("s")) for key, value in config["shutdown"].items()}
        grace = pod_of(resources)["spec"]["terminationGracePeriodSeconds"]
        assert grace > seconds["deadline"] > seconds["delay"] + seconds["spread"], (grace, seconds)
        ready = container["readinessProbe"]
        assert seconds["delay"] >= ready["periodSeconds"] * (ready["failureThreshold"] - 1), "it leaves before that is seen"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def status(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def until(what, look):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if look():
                return
        time.sleep(0.1)
    raise AssertionError(f"not within {PATIENCE} s: {what}")


def a_pod_serves_and_leaves(tools):
    resources = tools.render()
    container = container_of(resources)
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        command = [tools.gannet, "--config", mounted(resources, pathlib.Path(folder)), "--http_server.port", "0"]
        command += ["--http_server.address", "127.0.0.1", "--http_server.internal_port", port, "--shutdown.spread", "0s"]
        log = open(pathlib.Path(folder) / "log", "w+")
        process = subprocess.Popen([str(word) for word in command], env=variables(resources, container), stderr=log)
        try:
            paths = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
            for name, path in paths.items():
                until(f"{name} is content", lambda path=path: status(port, path) == 200)
            assert status(port, "/metrics") == 200
            # It leaves: nobody sends it clients any more, and nobody kills it.
            process.send_signal(signal.SIGTERM)
            until("readiness says no", lambda: status(port, paths["readinessProbe"]) == 503)
            assert status(port, paths["livenessProbe"]) == 200
            assert process.wait(timeout=PATIENCE) == 0
        except AssertionError as error:
            log.seek(0)
            raise AssertionError(f"{error}\n{log.read()}") from None
        finally:
            process.kill()
            process.wait()
            log.close()


def mistakes_are_told(tools):
    for words, told in (
        (["--set", "replicaCount=3"], "config.engine.type"),
        (["--set", "replicacount=3"], "replicacount"),
        (["--set", "drain.deadlineSeconds=20"], "drain.deadlineSeconds"),
        (["--set", "existingSecret=a,secrets.b=c"], "existingSecret and secrets"),
        (["--set", "config.shutdown.delay=1s"], "config.shutdown"),
        (["--set", "separateNodes=true,autoscaling.enabled=true,keda.enabled=true"], "enable one"),
    ):
        command = [str(word) for word in (tools.helm, "template", "gannet", CHART, *words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode != 0 and told in done.stderr, f"{words}: {done.stderr[-500:]}"
    assert tools.render("--set", "replicaCount=3,separateNodes=true")
    # A number that Helm likes to write as 1e+06.
    config = one(tools.render("--set", "config.client.connection_limit=1000000"), "ConfigMap")["data"]["config.json"]
    assert '"connection_limit": 1000000' in config, config


def the_plain_manifests_are_the_chart_s(tools):
    files = [PLAIN / "gannet.yaml", CHART / "values.schema.json"]
    before = [path.read_text() for path in files]
    try:
        run(sys.executable, PLAIN / "make", tools.helm)
        assert [path.read_text() for path in files] == before, "other than what deploy/kubernetes/make makes: run it"
    finally:
        for path, text in zip(files, before):
            path.write_text(text)
    built = list(yaml.safe_load_all(run(tools.kubectl, "kustomize", PLAIN)))
    for resource in built:
        for version in VERSIONS:
            tools.fits(resource, version)
    [address] = json.loads(one(built, "ConfigMap")["data"]["config.json"])["engine"]["redis"]["address"]
    assert address == f"redis://{one(built, 'StatefulSet')['metadata']['name']}:6379"


def versions_agree(_tools):
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    package = (ROOT / "Cargo.toml").read_text().split("[workspace.package]")[1]
    assert f'version = "{chart["version"]}"' in package and chart["appVersion"] == chart["version"], chart
    [image] = yaml.safe_load((PLAIN / "kustomization.yaml").read_text())["images"]
    assert image["newTag"] == chart["version"]


def main(gannet, folder):
    tools = Tools(pathlib.Path(gannet).resolve(), pathlib.Path(folder).resolve())
    good = []
    for name, step in (
        ("Helm finds no fault with the chart and its examples", helm_finds_no_fault),
        ("every resource fits its schema, by the letter", every_resource_fits),
        ("what names a port, a pod or a secret finds it", names_find_what_they_name),
        ("gannet check takes each configuration", gannet_takes_the_configuration),
        ("a pod's probes are content, and it leaves unready and alive", a_pod_serves_and_leaves),
        ("mistakes are told by what to change", mistakes_are_told),
        ("the plain manifests are the chart's, and kustomize builds them", the_plain_manifests_are_the_chart_s),
        ("versions agree", versions_agree),
    ):
        try:
            step(tools)
            good.append(True)
        except Exception as error:  # noqa: BLE001 - whatever it is, the step failed
            good.append(False)
            print(f"{type(error).__name__}: {error}")
        print(f"{'ok' if good[-1] else 'FAILED'}: {name}", flush=True)
    print(f"kubernetes: {good.count(True)} passed, {good.count(False)} failed")
    return 0 if all(good) else 1


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
