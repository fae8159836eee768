"""The chart: its values against its schema and its templates, and what it renders."""

import re
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import rendered
import yaml
from sources import read_text

CHART = Path("deploy/helm/roundhouse")
EXAMPLES = Path("deploy/helm/examples")
# Variables of docs/object-store.md that hold a secret: they belong in one, and values.yaml takes the others.
SECRET_VARIABLES = {
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SSE_CUSTOMER_KEY_BASE64",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_BEARER_TOKEN",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_STORAGE_TOKEN",
    "AZURE_CLIENT_SECRET",
    "AZURE_STORAGE_ENCRYPTION_KEY",
}


def check(helm, known, mistakes):
    """Checks the chart; without Helm only what its files say."""
    values = yaml.safe_load(read_text(CHART / "values.yaml"))
    schema = yaml.safe_load(read_text(CHART / "values.schema.json"))
    check_schema(values, schema, "", mistakes)
    check_values(values, schema, known, mistakes)
    check_comments(mistakes)
    check_templates_name_values(values, mistakes)
    if not helm:
        return
    result = subprocess.run(
        [helm, "lint", "--strict", CHART, "--values", EXAMPLES / "everything.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    mistakes.unless(result.returncode == 0, CHART, f"helm lint: {result.stdout.strip()}")
    examples = sorted(EXAMPLES.glob("*.yaml"))
    mistakes.unless(
        {path.stem for path in examples} >= {"minimal", "gpu", "keda", "everything"},
        EXAMPLES,
        "an example is missing",
    )
    bare = {}
    for path in examples:
        text, error = render(helm, path)
        if error:
            mistakes.add(path, f"helm template: {error}")
            continue
        merged = merge(values, yaml.safe_load(read_text(path)))
        bare[path] = (merged, text)
        rendered.check(
            [document for document in yaml.safe_load_all(text) if document], merged, path, known, mistakes
        )
    check_refusals(helm, mistakes)
    if bare:
        check_every_value_counts(helm, values, schema, bare, mistakes)


def render(helm, example, override=None):
    """What Helm makes of an example with other values on top: the text, or an error."""
    command = [helm, "template", "rh", CHART, "--namespace", "proving", "--values", example]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        if override is not None:
            yaml.safe_dump(override, file)
            file.flush()
            command += ["--values", file.name, "--skip-schema-validation"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    error = [line for line in result.stderr.splitlines() if line and not line.startswith("level=INFO")]
    return result.stdout, " ".join(error) if result.returncode else ""


def merge(values, other):
    """Values with others on top, as Helm puts them together."""
    if isinstance(values, dict) and isinstance(other, dict):
        return {
            key: merge(values.get(key), other[key]) if key in other else values[key] for key in values | other
        }
    return other


def check_schema(values, schema, path, mistakes):
    """Checks that schema and values have the same keys, and that every object refuses others."""
    place = f"{CHART}/values.schema.json"
    if schema.get("type") != "object":
        return
    if "properties" not in schema:
        is_map = "additionalProperties" in schema or path.endswith(".affinity")
        mistakes.unless(is_map, place, f"{path} takes any key")
        return
    mistakes.unless(
        schema.get("additionalProperties") is False,
        place,
        f"{path or 'the top'} takes keys that there are not",
    )
    listed = set(schema["properties"]) - {"global"}
    for key in listed ^ set(values):
        mistakes.add(
            place, f"{path}.{key} is in the schema or in values.yaml, and not in the other".lstrip(".")
        )
    mistakes.unless(
        set(schema.get("required", [])) == listed,
        place,
        f"{path or 'the top'} does not require all of its keys",
    )
    for key in listed & set(values):
        check_schema(values[key], schema["properties"][key], f"{path}.{key}".lstrip("."), mistakes)


def check_values(values, schema, known, mistakes):
    """Checks the values that others know too."""
    place = f"{CHART}/values.schema.json"
    environment = schema["properties"]["objectStore"]["properties"]["environment"]
    difference = set(environment["propertyNames"]["enum"]) ^ (set(known.cloud_variables) - SECRET_VARIABLES)
    mistakes.unless(
        not difference,
        place,
        f"objectStore.environment and docs/object-store.md differ in {', '.join(sorted(difference))}",
    )
    mistakes.unless(
        SECRET_VARIABLES <= set(known.cloud_variables),
        "scripts/deploy_checks/chart.py",
        "a secret's variable is not there",
    )
    rounds = schema["properties"]["witnessGenerator"]["properties"]["rounds"]["items"]["enum"]
    row = next(
        line for line in read_text("docs/configuration.md").splitlines() if "`ROUNDHOUSE_ROUND`" in line
    )
    for name in rounds:
        mistakes.unless(re.search(rf"\b{name}\b", row), place, f"there is no round {name}")
    version = values["scaling"]["protocolVersion"]
    mistakes.unless(
        version == known.protocol_version,
        f"{CHART}/values.yaml",
        f"scaling.protocolVersion is {version}, the programs' is {known.protocol_version}",
    )
    for key, variable in {
        "drainTimeoutSeconds": "ROUNDHOUSE_DRAIN_TIMEOUT_SECONDS",
        "jobMonitor.archiveAfterSeconds": "ROUNDHOUSE_ARCHIVE_AFTER_SECONDS",
        "jobMonitor.deleteAfterDays": "ROUNDHOUSE_DELETE_AFTER_DAYS",
        "jobMonitor.collectAfterHours": "ROUNDHOUSE_COLLECT_AFTER_HOURS",
        "witnessGenerator.generatorCount": "ROUNDHOUSE_GENERATOR_COUNT",
    }.items():
        value = values
        for part in key.split("."):
            value = value[part]
        mistakes.unless(
            str(value) == known.defaults[variable],
            f"{CHART}/values.yaml",
            f"the default of {variable} is {known.defaults[variable]}, {key} is {value}",
        )


def check_comments(mistakes):
    """Checks that a comment stands above every key of values.yaml."""
    above = ""
    for number, line in enumerate(read_text(CHART / "values.yaml").splitlines(), 1):
        if re.match(r"\s*[\w-]+:", line):
            mistakes.unless(
                above.startswith("#") or is_inside_a_value(line),
                f"{CHART}/values.yaml:{number}",
                f"nothing above `{line.strip()}` says what it is",
            )
        above = line.strip()


def is_inside_a_value(line):
    """Labels and tolerations, whose keys are Kubernetes' own."""
    return re.match(r"\s+(nvidia\.com|grafana_dashboard|operator|effect)", line) is not None


def check_templates_name_values(values, mistakes):
    """Checks that every value that a template names is in values.yaml."""
    for path in sorted((CHART / "templates").iterdir()):
        for name in re.findall(r"(?:\.Values|\$values)((?:\.\w+)+)", read_text(path)):
            value = values
            for part in name[1:].split("."):
                value = value.get(part) if isinstance(value, dict) else None
            mistakes.unless(value is not None, path, f"values.yaml has no {name[1:]}")


def check_refusals(helm, mistakes):
    """Checks that a mistake in the values is refused, with a word that says where it is."""
    example = EXAMPLES / "minimal.yaml"
    for setting, word in {
        "cpuProver.replcas=2": "replcas",
        "objectStore.environment.AWS_ENDPIONT=x": "AWS_ENDPIONT",
        "objectStore.url=/srv/store": "objectStore/url",
        "objectStore.url=s3://key:secret@bucket/x": "objectStore/url",
        "image.repository=": "image.repository",
        "objectStore.url=": "objectStore.url",
        "migration.urlSecret.name=": "migration.urlSecret.name",
        "database.urlSecret.name=": "database.urlSecret.name",
        "cpuProver.maxAllocationMiB=7000": "maxAllocationMiB",
        "gpuProver.enabled=true": "gpuProver.image.repository",
        "scaling.compressor.minReplicas=9": "minReplicas",
        "cpuProver.lightWvgCount=0,cpuProver.heavyWvgCount=0": "nothing would ever be proven",
    }.items():
        result = subprocess.run(
            [helm, "template", "rh", CHART, "--values", example, "--set", setting],
            capture_output=True,
            text=True,
            check=False,
        )
        mistakes.unless(
            result.returncode != 0 and word in result.stderr,
            CHART,
            f"`--set {setting}` is not refused with a word of {word}",
        )


def leaves(values, schema, path=()):
    """Every value that has no keys of the chart's below it, with its path and its schema."""
    for key, value in values.items():
        below = schema["properties"][key]
        if "properties" in below:
            yield from leaves(value, below, (*path, key))
        else:
            yield (*path, key), value, below


def changed(value, schema):
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, list):
        kind = schema["items"].get("type")
        return [*value, {"key": "changed"} if kind == "object" else 1 if kind == "integer" else "changed"]
    if isinstance(value, dict):
        return value | {"changed": "changed"}
    return next((other for other in schema.get("enum", []) if other != value), f"{value}1")


def check_every_value_counts(helm, values, schema, bare, mistakes):
    """Checks that each value changes what is rendered, in one example at least: else no template uses it."""

    def counts(leaf):
        path, _, below = leaf
        return any(differs(path, below, example, *of_example) for example, of_example in bare.items())

    def differs(path, below, example, merged, text):
        value = merged
        for part in path:
            value = value[part]
        override = changed(value, below)
        for part in reversed(path):
            override = {part: override}
        return render(helm, example, override)[0] not in ("", text)

    all_leaves = list(leaves(values, schema))
    with ThreadPoolExecutor(4) as pool:
        for (path, _, _), counted in zip(all_leaves, pool.map(counts, all_leaves), strict=True):
            mistakes.unless(
                counted, f"{CHART}/values.yaml", f"{'.'.join(path)} changes nothing that is rendered"
            )
