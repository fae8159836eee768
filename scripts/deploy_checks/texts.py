"""Names in all files of deploy/ and in the pages about it, wherever they stand."""

import re
from pathlib import Path

import yaml
from sources import check_variable, read_text

PAGES = ["docs/kubernetes.md", "docs/systemd.md"]
GUIDE = "docs/operating.md"
ALERTS = "docker/prometheus/alerts.yml"


def check(known, mistakes):
    """Checks every variable, route and flag by its looks, and the values that the pages name."""
    files = [
        str(path)
        for path in sorted(Path("deploy").rglob("*"))
        if path.is_file() and "/files/" not in str(path)
    ]
    values = yaml.safe_load(read_text("deploy/helm/roundhouse/values.yaml"))
    for path in files + PAGES:
        text = read_text(path)
        for number, line in enumerate(text.splitlines(), 1):
            place = f"{path}:{number}"
            if not path.endswith("values.schema.json"):
                for name in re.findall(r"\b(?:ROUNDHOUSE|AWS|GOOGLE|AZURE)_[A-Z0-9_]*[A-Z0-9]\b", line):
                    check_variable(name, place, known, mistakes)
            for route in re.findall(r"(?<![\w.*/-])/(?:health|metrics|queue)[\w/]*", line):
                if route != "/health":
                    mistakes.unless(route in known.routes, place, f"nothing serves {route}")
        if path in PAGES:
            check_page(path, text, values, known, mistakes)
    check_guide(values, known, mistakes)


def check_guide(values, known, mistakes):
    """Checks the operating guide: its commands and links, and that each alert has its line there, and each line its alert."""
    text = read_text(GUIDE)
    check_page(GUIDE, text, values, known, mistakes)
    alerts = set(re.findall(r"- alert: (\w+)", read_text(ALERTS)))
    lines = set(re.findall(r"^\| (Roundhouse\w+) \|", text, re.M))
    for name in sorted(alerts - lines):
        mistakes.unless(False, GUIDE, f"the alert {name} of {ALERTS} has no line")
    for name in sorted(set(re.findall(r"\bRoundhouse[A-Z]\w+", text)) - alerts):
        mistakes.unless(False, GUIDE, f"{ALERTS} has no alert {name}")


def check_page(path, text, values, known, mistakes):
    """Checks the commands of a page's examples, and its words in quotes that name values or files."""
    for block in re.findall(r"```\w*\n(.*?)```", text, re.S):
        for line in block.replace("\\\n", " ").splitlines():
            for key in re.findall(r"--set(?:-string)? ([\w.]+)=", line):
                mistakes.unless(has(values, key), path, f"values.yaml has no {key}")
            ours = re.search(r"\bprover(?:_cli)? (.*)", line)
            for flag in re.findall(r"(?<!\S)--?[a-z][\w-]*", ours[1] if ours else ""):
                exists = flag in known.run_flags | known.cli_flags | known.role_flags or len(flag) == 2
                mistakes.unless(exists, path, f"no program of ours has a flag {flag}: {line.strip()}")
    for quoted in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S)):
        if re.fullmatch(r"\w+(\.\w+)+", quoted) and quoted.split(".")[0] in values:
            mistakes.unless(has(values, quoted), path, f"values.yaml has no {quoted}")
        if re.match(r"(deploy|docs|scripts|docker)/", quoted):
            mistakes.unless(Path(quoted.split()[0]).exists(), path, f"there is no {quoted}")
    for link in re.findall(r"\]\(([\w./-]+)\)", text):
        mistakes.unless((Path(path).parent / link).exists(), path, f"the link {link} leads nowhere")


def has(values, key):
    """Whether the values have this key, written with dots."""
    for part in key.split("."):
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True
