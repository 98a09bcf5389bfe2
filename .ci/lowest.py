"""Write pip requirements that pin every declared dependency to its lowest version."""

import re
import sys
from pathlib import Path

REQUIREMENT = re.compile(r'"(?P<name>[A-Za-z0-9_-]+(?:\[\w+\])?) *(?:>= *(?P<version>[0-9.]+))?[^"]*"')


def main(target: str) -> None:
    # Read by pattern, not by tomllib: that came with Python 3.11, and this runs on 3.10.
    project = Path("pyproject.toml").read_text().partition("[dependency-groups]")[0]
    declared = [line for line in project.partition("dependencies = [")[2].splitlines() if "#" not in line]
    found = [match for line in declared if (match := REQUIREMENT.search(line))]
    pins = [f"{m['name']}=={m['version']}" if m["version"] else m["name"] for m in found]
    Path(target).write_text("\n".join(pin for pin in pins if not pin.startswith("async-peewee")) + "\n")


main(sys.argv[1])
