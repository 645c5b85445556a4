"""docs/streams.md and the AsyncAPI document: made from the structs, complete, and true of what is in a real Redis."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache

import jsonschema_rs

from schemas import keys
from tests.support.project import ROOT

PAGE = (ROOT / "docs/streams.md").read_text()
ASYNCAPI = ROOT / "consumers/web/api/asyncapi.json"
_MAKE = """
import sys, json
sys.path.insert(0, "docs")
import streams_page, asyncapi, stream_list
names = {key.name: key.is_public for key in stream_list.KEYS}
print(json.dumps([streams_page.text(), asyncapi.text(), names, list(stream_list.STATE)]))
"""


@cache
def made() -> tuple[str, str, dict[str, bool], list[str]]:
    """(the page, the AsyncAPI document, the keys and whether they are public, the fields of the state)"""
    done = subprocess.run([sys.executable, "-c", _MAKE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page, document, names, fields = json.loads(done.stdout)
    return page, document, names, fields


def test_the_page_and_the_document_are_made_from_the_structs() -> None:
    """Each field of each struct is described: otherwise they cannot be made."""
    page, document, _, _ = made()
    assert page == PAGE, "run `make schemas`"
    assert document == ASYNCAPI.read_text(), "run `make schemas`"


def test_nil_is_written_as_a_type_and_not_as_the_last_of_the_values() -> None:
    assert "| compares | str or nil: next, place |" in PAGE
    assert not re.findall(r"\| str: [^|]* or nil \|", PAGE)


def test_the_page_has_every_key_of_the_council() -> None:
    in_code = {value for value in vars(keys).values() if isinstance(value, str) and value.startswith("council:")}
    assert set(made()[2]) == in_code | set(keys.of_session("ID")) | {keys.process("NAME")}


def test_the_page_has_every_field_that_a_script_writes_into_the_state_of_a_session() -> None:
    written = set[str]()
    for script in (ROOT / "transport/lua").glob("*.lua"):
        source = script.read_text()
        if re.search(r"^-- KEYS (?:state|all keys)", source, re.MULTILINE):
            for line in re.findall(r"'HSET', KEYS\[1\], (.*)", source):
                written |= {*re.findall(r"'([a-z]+)'", line)} - {"open", "ended", "string"}
    assert {"status", "epoch", "composed", "playback", "branches"} <= written
    assert written <= set(made()[3])


def test_every_reference_in_the_asyncapi_document_has_a_target_and_every_parameter_is_described() -> None:
    """The official parser (@asyncapi/parser) also finds the document valid; it needs npm."""
    document = json.loads(ASYNCAPI.read_text())
    references = re.findall(r'"\$ref": ?"#/([^"]+)"', ASYNCAPI.read_text())
    assert len(references) > 100
    for reference in references:
        found = document
        for part in reference.split("/"):
            assert part in found, reference
            found = found[part]
    for channel in document["channels"].values():
        assert set(re.findall(r"{(\w+)}", channel["address"])) == set(channel.get("parameters", {}))
    assert {channel["address"] for channel in document["channels"].values()} >= {
        "council:sessions", "council:{session}:frames", "council:{session}:tokens", "/ws", "/frames",
    }  # fmt: skip
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "http://json-schema.org/draft-07/schema#", **schema})
