"""What there is: flags, variables, routes and components.

They are read from the pages that tests hold against the code, else from the code.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

# Variables of PostgreSQL's library, the log's filter and systemd. The last two are the units' own.
FOREIGN_VARIABLES = {
    "DATABASE_URL",
    "PGPASSFILE",
    "RUST_LOG",
    "HOME",
    "CREDENTIALS_DIRECTORY",
    "LISTEN_ADDRESS",
    "COMPONENT_USER",
}


@dataclass
class Known:
    """Everything that deploy/ may name."""

    run_flags: set
    cli_flags: set
    role_flags: set
    variables: set
    defaults: dict
    cloud_variables: list
    components: set
    routes: set
    report_kinds: set
    report_fields: set
    protocol_version: str
    bad_input: int
    stopped_at_once: int
    variable_of_flag: dict = field(default_factory=dict)


def read_text(path):
    """A file of the repository."""
    return Path(path).read_text(encoding="utf-8")


def kebab(name):
    """As the command line has a variant's name."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


def settings():
    """Of docs/configuration.md: flags, variables and their defaults."""
    flags, defaults, by_flag = set(), {}, {}
    for line in read_text("docs/configuration.md").splitlines():
        row = re.match(r"\| (`-.*?`) \| `(\w+)` \| (?:`[\w.]+`)? \| (?:`(.*?)`)? \|", line)
        if row:
            names = re.findall(r"`(--?[\w-]+)`", row[1])
            flags.update(names)
            defaults[row[2]] = row[3]
            by_flag[names[-1]] = row[2]
    return flags, defaults, by_flag


def struct_fields(source, name):
    """The public fields of a struct."""
    body = re.search(rf"pub struct {name} \{{(.*?)\n\}}", source, re.S)[1]
    return set(re.findall(r"pub (\w+):", body))


def read():
    """Reads all of it."""
    flags, defaults, by_flag = settings()
    database = read_text("crates/prover/src/database.rs")
    roles = re.search(r"Roles \{(.*?)\n    \},", database, re.S)[1]
    report = read_text("crates/job-monitor/src/queue_report.rs")
    served = read_text("crates/pipeline/src/endpoints.rs") + read_text("crates/job-monitor/src/web.rs")
    components = re.search(r"pub enum Component \{(.*?)\n\}", read_text("crates/pipeline/src/plan.rs"), re.S)[
        1
    ]
    version = re.search(
        r"PROTOCOL_VERSION.*minor: (\d+), patch: (\d+)", read_text("crates/ledger-circuits/src/system.rs")
    )
    support = read_text("crates/cli-support/src/lib.rs")
    return Known(
        run_flags=flags,
        cli_flags=set(re.findall(r"--[a-z][\w-]*", read_text("docs/prover_cli.md"))),
        role_flags={f"--{name}" for name in re.findall(r"#\[arg\(long.*\)\]\n\s+(\w+):", roles)},
        variables=set(defaults) | FOREIGN_VARIABLES,
        defaults=defaults,
        cloud_variables=re.findall(r"^\| `([A-Z0-9_]+)` \|", read_text("docs/object-store.md"), re.M),
        components={kebab(name) for name in re.findall(r"^    (\w+),$", components, re.M)},
        routes=set(re.findall(r'\.route\("([^"]+)"', served)),
        report_kinds=struct_fields(report, "Report"),
        report_fields=struct_fields(report, "JobCounts"),
        protocol_version=f"0.{version[1]}.{version[2]}",
        bad_input=int(re.search(r"BAD_INPUT: u8 = (\d+);", support)[1]),
        stopped_at_once=int(re.search(r"STOPPED_AT_ONCE: i32 = (\d+);", support)[1]),
        variable_of_flag=by_flag,
    )


def check_command(words, place, known, mistakes):
    """Checks a command line of ours: its command, its flags, and the component that it names."""
    program, arguments = words[0], words[1:]
    names = []
    for word in arguments:
        if word.startswith("-"):
            break
        names.append(word)
    command = " ".join([program, *names])
    allowed = {
        "prover run": known.run_flags,
        "prover keys generate": {"--keys", "--proof-system", "--object-store", "--log-format"},
        "prover database migrate": {"--database-url", "--log-format"},
        "prover database roles": known.role_flags | {"--database-url", "--log-format"},
        "prover_cli insert-version": {"--version", "--patch", "--proof-system"},
    }
    if command not in allowed:
        mistakes.add(
            place,
            f"there is no command `{command}` among those that deploy/ runs: {', '.join(sorted(allowed))}",
        )
        return
    for word in arguments[len(names) :]:
        flag, _, value = word.partition("=")
        mistakes.unless(flag in allowed[command], place, f"`{command}` has no flag {flag}")
        if flag == "--component":
            mistakes.unless(value in known.components, place, f"there is no component `{value}`")
    if command == "prover run":
        mistakes.unless(
            any(word.startswith("--component=") for word in arguments),
            place,
            "`prover run` names no component",
        )


def check_variable(name, place, known, mistakes):
    """Checks the name of an environment variable."""
    exists = name in known.variables or name in known.cloud_variables
    mistakes.unless(
        exists,
        place,
        f"there is no variable {name}: docs/configuration.md and docs/object-store.md have them all",
    )
