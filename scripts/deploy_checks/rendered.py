"""What the chart renders: Kubernetes' schemas, and what must hold whatever the values are."""

import json
import re
from pathlib import Path

import yaml
from sources import check_command, check_variable, read_text

# The oldest that Chart.yaml allows, and the newest that there are schemas of.
KUBERNETES = ["1.27", "1.37"]
# Their schemas are in no registry; docs/kubernetes.md says what they were held against by hand.
OTHERS_KINDS = {"ServiceMonitor", "PrometheusRule", "ScaledObject", "TriggerAuthentication"}
# Between the end of a drain and the kill.
GRACE_SECONDS = 15
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def check(documents, values, example, known, mistakes):
    """Checks all documents of one example."""
    check_schemas(documents, example, mistakes)
    by_name = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    mistakes.unless(len(by_name) == len(documents), example, "two objects have one name")
    mistakes.unless(all(kind != "Secret" for kind, _ in by_name), example, "it renders a secret")
    for (kind, name), document in by_name.items():
        place = f"{example}: {kind} {name}"
        if kind in ("Deployment", "Job"):
            check_pods(document, place, known, mistakes)
        if kind == "Deployment":
            check_deployment(document, values, by_name, place, mistakes)
        if kind in ("Service", "PodDisruptionBudget"):
            check_selector(document, documents, place, mistakes)
        if kind == "ScaledObject":
            check_scaled(document, values, by_name, place, known, mistakes)
        if kind == "ServiceMonitor":
            check_scraped(document, by_name, place, known, mistakes)
        if kind == "PrometheusRule":
            alerts = yaml.safe_load(read_text("docker/prometheus/alerts.yml"))
            mistakes.unless(
                document["spec"] == alerts, place, "its alerts are not those of docker/prometheus/alerts.yml"
            )
        if kind == "ConfigMap":
            files = {
                f"roundhouse-{path.name}": path.read_text(encoding="utf-8")
                for path in Path("docker/grafana/dashboards").iterdir()
            }
            mistakes.unless(
                document["data"] == files, place, "its dashboards are not those of docker/grafana/dashboards"
            )
    check_what_must_be_there(by_name, values, example, mistakes)


def check_schemas(documents, example, mistakes):
    """Holds documents against Kubernetes' schemas, where there are any."""
    try:
        import kubernetes_validate
    except ImportError:
        return
    for document in documents:
        if document["kind"] in OTHERS_KINDS:
            continue
        for version in KUBERNETES:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                where = ".".join(str(part) for part in error.path)
                mistakes.add(
                    f"{example}: {document['kind']} {document['metadata']['name']}",
                    f"Kubernetes {version} refuses {where}: {error.message}",
                )


def check_what_must_be_there(by_name, values, example, mistakes):
    """Checks that each part of the chart is rendered when its values say so, and not else."""
    kinds = {kind for kind, _ in by_name}
    names = {name.removeprefix("rh-roundhouse-") for kind, name in by_name if kind == "Deployment"}
    expected = {"witness-generator", "compressor", "job-monitor"}
    expected |= {"prover-cpu"} if values["cpuProver"]["enabled"] else set()
    expected |= {"prover-gpu"} if values["gpuProver"]["enabled"] else set()
    mistakes.unless(
        names == expected, example, f"the Deployments are {sorted(names)}, not {sorted(expected)}"
    )
    for kind, is_wanted in {
        "Job": values["migration"]["enabled"],
        "NetworkPolicy": values["networkPolicy"]["enabled"],
        "ServiceMonitor": values["serviceMonitor"]["enabled"],
        "PrometheusRule": values["prometheusRule"]["enabled"],
        "ConfigMap": values["dashboards"]["enabled"],
        "ScaledObject": values["scaling"]["enabled"],
        "PodDisruptionBudget": values["jobMonitor"]["replicas"] > 1,
        "ServiceAccount": values["serviceAccount"]["create"],
        "PersistentVolumeClaim": values["keys"]["volume"] == "claim"
        and not values["keys"]["claim"]["existingName"],
    }.items():
        mistakes.unless(
            (kind in kinds) == is_wanted,
            example,
            f"{kind} is {'missing' if is_wanted else 'there, though no value asks for it'}",
        )


def check_pods(document, place, known, mistakes):
    """Checks a pod's containers: security, memory, volumes, and that all they name is there."""
    pod = document["spec"]["template"]["spec"]
    security = pod["securityContext"]
    is_safe = (
        security["runAsNonRoot"]
        and security["runAsUser"] > 0
        and security["seccompProfile"] == {"type": "RuntimeDefault"}
    )
    mistakes.unless(
        is_safe and pod["automountServiceAccountToken"] is False,
        place,
        "its pod's security is not that of compose.yaml",
    )
    volumes, mounted = {volume["name"] for volume in pod["volumes"]}, set()
    for container in pod.get("initContainers", []) + pod["containers"]:
        inside = f"{place}, {container['name']}"
        mistakes.unless(
            container["securityContext"] == CONTAINER_SECURITY,
            inside,
            "its security is not that of compose.yaml",
        )
        resources = container["resources"]
        mistakes.unless(
            resources["limits"]["memory"] == resources["requests"]["memory"],
            inside,
            "its memory is limited otherwise than it is asked for",
        )
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        mounted |= mounts
        mistakes.unless(
            mounts <= volumes, inside, f"it mounts what is no volume: {', '.join(sorted(mounts - volumes))}"
        )
        check_environment(container, inside, known, mistakes)
        command = container.get("command", ["/usr/bin/tini", "--", "prover"])
        if command[:2] == ["/usr/bin/tini", "--"]:
            check_command([*command[2:], *container["args"]], inside, known, mistakes)
        else:
            mistakes.unless(command[0] == "install", inside, f"nobody checks the command {command[0]}")
    mistakes.unless(mounted == volumes, place, f"nobody mounts {', '.join(sorted(volumes - mounted))}")


def check_environment(container, inside, known, mistakes):
    """Checks variables: known, given once, and without a password that somebody wrote down."""
    variables = container.get("env", [])
    names = [variable["name"] for variable in variables]
    mistakes.unless(len(set(names)) == len(names), inside, "a variable is given twice")
    paths = [mount["mountPath"] for mount in container["volumeMounts"]]
    for variable in variables:
        check_variable(variable["name"], inside, known, mistakes)
        value = variable.get("value", "")
        mistakes.unless(isinstance(value, str), inside, f"{variable['name']} is no text")
        mistakes.unless(not re.search(r"://[^/\s]*@", value), inside, f"{variable['name']} holds a password")
        if value.startswith("/"):
            is_mounted = any(value == path or value.startswith(f"{path}/") for path in paths)
            mistakes.unless(is_mounted, inside, f"{variable['name']} names {value}, where nothing is mounted")


def check_deployment(document, values, by_name, place, mistakes):
    """Checks what a component's Deployment has: probes, the time to drain, and who sets its replicas."""
    spec = document["spec"]
    pod = spec["template"]["spec"]
    grace = values["drainTimeoutSeconds"] + GRACE_SECONDS
    mistakes.unless(
        pod["terminationGracePeriodSeconds"] == grace,
        place,
        f"terminationGracePeriodSeconds is not {grace}, {GRACE_SECONDS} above the drain",
    )
    labels = spec["template"]["metadata"]["labels"]
    mistakes.unless(
        spec["selector"]["matchLabels"].items() <= labels.items(),
        place,
        "its selector does not pick its pods",
    )
    is_scaled = ("ScaledObject", document["metadata"]["name"]) in by_name
    mistakes.unless(
        is_scaled != ("replicas" in spec),
        place,
        "KEDA and the Deployment both set its replicas, or neither does",
    )
    container = pod["containers"][0]
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    mistakes.unless(
        environment.get("ROUNDHOUSE_LISTEN", "").endswith(f":{ports['http']}"),
        place,
        "it listens at another port than it says",
    )
    probes = {
        "startupProbe": "/health/live",
        "livenessProbe": "/health/live",
        "readinessProbe": "/health/ready",
    }
    for probe, path in probes.items():
        asked = container[probe]["httpGet"]
        mistakes.unless(asked == {"path": path, "port": "http"}, place, f"its {probe} asks {asked['path']}")
        # A probe may wait for five seconds while somebody floods the port: docs/security.md.
        mistakes.unless(container[probe]["timeoutSeconds"] > 5, place, f"its {probe} waits for 5 s or less")
    if "prover-gpu" in document["metadata"]["name"]:
        resource = values["gpuProver"]["resourceName"]
        mistakes.unless(
            container["resources"]["limits"].get(resource) == values["gpuProver"]["devices"],
            place,
            f"it is not given {resource}",
        )
        mistakes.unless(environment.get("ROUNDHOUSE_DEVICE") == "all", place, "it does not use its devices")


def check_selector(document, documents, place, mistakes):
    """Checks that a selector picks pods, and no migration's."""
    selector = document["spec"]["selector"]
    selector = selector.get("matchLabels", selector)
    picked = {
        other["kind"]
        for other in documents
        if other["kind"] in ("Deployment", "Job")
        and selector.items() <= other["spec"]["template"]["metadata"]["labels"].items()
    }
    mistakes.unless(picked == {"Deployment"}, place, f"it picks pods of {sorted(picked) or 'nothing'}")


def check_scaled(document, values, by_name, place, known, mistakes):
    """Checks what KEDA asks: a name, a port and a route that are served, and fields of the report."""
    spec = document["spec"]
    mistakes.unless(
        ("Deployment", spec["scaleTargetRef"]["name"]) in by_name, place, "it scales what is not there"
    )
    monitor = next(
        other
        for (kind, name), other in by_name.items()
        if kind == "Deployment" and name.endswith("-job-monitor")
    )
    environment = {
        variable["name"]: variable.get("value")
        for variable in monitor["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    for trigger in spec["triggers"]:
        metadata = trigger["metadata"]
        # The namespace is that of the checks.
        url = re.fullmatch(
            rf"http://(([\w-]+)\.proving\.svc\.{re.escape(values['clusterDomain'])}):(\d+)(/\w+)",
            metadata["url"],
        )
        mistakes.unless(
            url and ("Service", url[2]) in by_name and int(url[3]) == values["http"]["port"],
            place,
            f"nobody serves {metadata['url']}",
        )
        mistakes.unless(
            url and url[1] in environment.get("ROUNDHOUSE_ALLOWED_HOST", "").split(","),
            place,
            "the job monitor does not answer to the name",
        )
        mistakes.unless(url and url[4] in known.routes, place, f"nothing serves {metadata['url']}")
        field = re.fullmatch(r'#\(version=="([\d.]+)"\)\.report\.(\w+)\.(\w+)', metadata["valueLocation"])
        is_there = (
            field
            and field[1] == values["scaling"]["protocolVersion"]
            and field[2] in known.report_kinds
            and field[3] in known.report_fields
        )
        mistakes.unless(is_there, place, f"the queue report has no {metadata['valueLocation']}")
        reference = trigger.get("authenticationRef")
        has_token = bool(values["http"]["tokenSecret"]["name"])
        mistakes.unless(has_token == bool(reference), place, "it shows no token, or one that nobody asks for")
        if reference:
            mistakes.unless(
                ("TriggerAuthentication", reference["name"]) in by_name,
                place,
                f"there is no {reference['name']}",
            )
    formula = spec["advanced"].get("scalingModifiers", {}).get("formula", "")
    names = {trigger["name"] for trigger in spec["triggers"]}
    mistakes.unless(
        set(re.findall(r"\w+", formula)) in (set(), names),
        place,
        f"its formula does not add up its triggers: {formula}",
    )


def check_scraped(document, by_name, place, known, mistakes):
    """Checks that what is scraped is there and served."""
    selector = document["spec"]["selector"]["matchLabels"]
    services = [
        other
        for (kind, _), other in by_name.items()
        if kind == "Service" and selector.items() <= other["metadata"]["labels"].items()
    ]
    mistakes.unless(len(services) == 1, place, f"it picks {len(services)} services: {json.dumps(selector)}")
    for endpoint in document["spec"]["endpoints"]:
        mistakes.unless(endpoint["path"] in known.routes, place, f"nothing serves {endpoint['path']}")
        ports = [port["name"] for service in services for port in service["spec"]["ports"]]
        mistakes.unless(endpoint["port"] in ports, place, f"no service has a port {endpoint['port']}")
