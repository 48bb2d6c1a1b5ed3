"""Says of each TOML file behind a JSON Schema whether it is valid: one line a file."""

import datetime
import json
import sys
import tomllib

import jsonschema


def plain(value):
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.isoformat() if isinstance(value, datetime.datetime) else value


with open(sys.argv[1], "rb") as file:
    schema = json.load(file)
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
for path in sys.argv[2:]:
    with open(path, "rb") as file:
        found = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(plain(tomllib.load(file)))]
    print("valid" if not found else "; ".join(found).replace("\n", " "))
