"""Models of a user's own servers and files: found, listed, loaded, unloaded, warmed, refused."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.gguf_model import gguf_model
from bench.llama_server import llama_server
from tests.support.council_command import council
from tests.support.llama import needs_llama, skip_without_llama
from tests.support.running_council import Up, command_of
from tests.support.session_folder import session_folder
from tests.support.waiting import wait_until
from transport.redis.connection import Pipe


@contextlib.contextmanager
def ollama(*models: str, **limits: float) -> Iterator[str]:
    """A simulated Ollama with these models, each NAME=GB; yields the value for OLLAMA_HOST."""
    words = [word for model in models for word in ("--model", model)]
    words += [word for name, number in limits.items() for word in (f"--{name.replace('_', '-')}", str(number))]
    command = [sys.executable, "-m", "tests.support.ollama.server", *words]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def books(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/books") as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def call(address: str, method: str, path: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{address}{path}", method=method)) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def residency(up: Up, model: str) -> str:
    _, answer = call(up.address, "GET", "/api/models")
    return str(next(found["residency"] for found in answer["models"] if found["model"] == model))


# --- Ollama -----------------------------------------------------------------------------------------------------------


def test_an_ollama_is_found_its_models_are_warmed_with_progress_and_answer(tmp_path: Path) -> None:
    with (
        ollama("small:1b=1.3", "middle:4b=4", "huge:70b=40", load_s=1.3) as url,
        contextlib.closing(Up(tmp_path, "--tier", "mid", default_models=True, OLLAMA_HOST=url)) as up,
    ):
        wait_until(lambda: "(2 of 2" in up.text(), "both models are loaded")
        text = up.text()
        assert "Left out, since the mid tier takes models of up to 8 GB: huge:70b (40.0 GB)." in text
        assert text.index("Loading small:1b, 1.3 GB.") < text.index("small:1b is loaded (")
        outcome = council("ask", "Why?", "--max-tokens", "5", "--json", TMPDIR=str(tmp_path), OLLAMA_HOST=url)
        assert outcome.code == 0, outcome.said
        assert {member["model"] for member in outcome.lines[-1]["members"]} == {"small:1b", "middle:4b"}
        assert {member["tokens"] for member in outcome.lines[-1]["members"]} == {5}
        assert all(token["quality"] == "real" for frame in outcome.lines[:-1] for token in frame["tokens"])

        # Over HTTP: what is there, unloading and loading again, by name and by id.
        status, answer = call(up.address, "GET", "/api/models")
        assert status == 200
        small = next(model for model in answer["models"] if model["model"] == "small:1b")
        assert (small["id"], small["size_bytes"], small["server"]) == ("small-1b", 1_300_000_000, url)
        assert call(up.address, "POST", "/api/models/small:1b/unload")[0] == 202
        wait_until(lambda: residency(up, "small:1b") == "absent", "small is unloaded")
        assert call(up.address, "POST", "/api/models/small-1b/load")[0] == 202
        wait_until(lambda: residency(up, "small:1b") == "loaded", "small is loaded again")
        status, answer = call(up.address, "POST", "/api/models/nothing/load")
        assert (status, answer["error"]["code"]) == (404, "unknown_model")
        assert "; models: " in answer["error"]["message"]

        # A model that answers is not unloaded.
        asking = subprocess.Popen(
            [sys.executable, "-m", "council", "ask", "Why?", "--models", "middle:4b", "--max-tokens", "400", "--json"],
            env=up.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(
            lambda: (
                call(up.address, "POST", "/api/models/middle:4b/unload")[1].get("error", {}).get("code")
                == "model_in_use"
            ),
            "the model is in use",
        )
        asking.terminate()
        asking.communicate(timeout=20)
        assert "Traceback" not in up.text()


def test_a_council_that_does_not_fit_its_servers_memory_has_a_warning_before_it_runs(tmp_path: Path) -> None:
    with ollama("a:1b=1", "b:1b=1", "c:1b=1", max_loaded=2, load_s=0.05) as url:
        arguments = ["--models", "a:1b,b:1b,c:1b", "--max-tokens", "3", "--json", "--tier", "mid"]
        outcome = council(
            "ask", "Why?", *arguments, TMPDIR=str(tmp_path), OLLAMA_HOST=url, OLLAMA_MAX_LOADED_MODELS="2"
        )
        assert outcome.code == 0, outcome.said
        outcome.assert_said("keeps 2 models in memory and this session has 3 of them: c:1b waits")
        outcome.assert_said("OLLAMA_MAX_LOADED_MODELS=3")
        assert [member["state"] for member in outcome.lines[-1]["members"]] == ["finished"] * 3
        assert len(books(url)["loaded"]) <= 2


def test_models_are_listed_with_size_state_and_note(tmp_path: Path) -> None:
    with ollama("small:1b=1.3", "huge:70b=40", load_s=0.05) as url:
        outcome = council("models", "--json", "--tier", "low", TMPDIR=str(tmp_path), OLLAMA_HOST=url)
        assert outcome.code == 0, outcome.said
        models = {model["model"]: model for model in json.loads(outcome.out)["models"]}
        assert models["small:1b"]["size_bytes"] == 1_300_000_000
        assert (models["small:1b"]["loaded"], models["small:1b"]["api"]) == (False, "ollama")
        assert "completion" in models["small:1b"]["capabilities"]
        assert (models["ngram:word-3"]["loaded"], models["ngram:word-3"]["size_bytes"]) == (None, None)
        assert (models["ngram:word-3"]["continues"], models["small:1b"]["continues"]) == ("yes", "untried")
        table = council("models", "--tier", "low", TMPDIR=str(tmp_path), OLLAMA_HOST=url, COLUMNS="120").out
        assert "larger than the 4 GB of the low tier" in table
        assert "continues" in table
        assert "untried" in table
        refused = council("up", "--tier", "low", "--models", "huge:70b", "--no-open", "--port", "0", OLLAMA_HOST=url)
        refused.assert_refused("'huge:70b' has 40.0 GB and the low tier takes models of up to 4 GB")


# --- GGUF files -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gguf_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three models of different sizes and tokenizers: byte pairs, nearly words, and sentence pieces."""
    folder = session_folder(tmp_path_factory)
    return [
        gguf_model(folder),
        gguf_model(folder, vocab=1000, dim=200),
        gguf_model(folder, vocab=600, dim=160, kind="sentence_pieces"),
    ]


@needs_llama
def test_three_real_models_of_different_sizes_and_tokenizers_answer_in_one_council(
    gguf_files: list[Path], tmp_path: Path
) -> None:
    models = ",".join(f"gguf:{path}" for path in gguf_files)
    arguments = ["--models", models, "--max-tokens", "12", "--seed", "5", "--tier", "mid", "--json"]
    answers = []
    for _ in range(2):
        outcome = council("ask", "What is a list?", *arguments, TMPDIR=str(tmp_path))
        assert outcome.code == 0, outcome.said
        *frames, summary = outcome.lines
        assert [member["model"] for member in summary["members"]] == [f"gguf:{path.stem}" for path in gguf_files]
        assert [member["state"] for member in summary["members"]] == ["finished"] * 3
        assert all(token["quality"] == "real" for frame in frames for token in frame["tokens"])
        assert any(frame["di_source"] == "logprobs" for frame in frames)
        answers.append([member["text"] for member in summary["members"]])
    assert answers[0] == answers[1]
    assert len(set(answers[0])) == 3


@needs_llama
def test_a_file_that_is_not_gguf_is_refused_before_anything_starts(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF is what I am not")
    council("ask", "hi", "--models", f"gguf:{broken}", TMPDIR=str(tmp_path)).assert_refused(str(broken))
    council("ask", "hi", "--models", "gguf:/no/such.gguf", TMPDIR=str(tmp_path)).assert_refused("/no/such.gguf")
    assert sorted(tmp_path.iterdir()) == [broken]


# --- servers by name --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    skip_without_llama()
    with llama_server(gguf_model(session_folder(tmp_path_factory))) as url:
        yield url


def settings_file(folder: Path, **servers: str) -> str:
    path = folder / "council.toml"
    path.write_text("\n".join(f"[servers.{name}]\n{lines}" for name, lines in servers.items()))
    return str(path)


def test_a_remote_member_needs_the_hybrid_tier_and_a_flag_and_is_marked_in_every_frame(
    tmp_path: Path, llama_url: str
) -> None:
    """Also for a private council. The server of this test is only configured as remote."""
    config = settings_file(tmp_path, far=f'url = "{llama_url}"\nmodels = ["tiny"]\nremote = true\n')
    common = ["--config", config, "--models", "tiny,ngram:char-6", "--max-tokens", "5", "--json"]
    council("ask", "hi", *common, TMPDIR=str(tmp_path)).assert_refused("only the hybrid tier", "--allow-remote")
    council("ask", "hi", *common, "--tier", "hybrid", TMPDIR=str(tmp_path)).assert_refused("would leave this machine")
    allowed = council("ask", "hi", *common, "--tier", "hybrid", "--allow-remote", TMPDIR=str(tmp_path))
    assert allowed.code == 0, allowed.said
    *frames, summary = allowed.lines
    assert {tuple(member["remote"] for member in frame["members"]) for frame in frames} == {(True, False)}
    assert [member["remote"] for member in summary["members"]] == [True, False]
    # It is never a default member.
    words = ["--config", config, "--max-tokens", "3", "--json", "--tier", "hybrid", "--allow-remote"]
    default = council("ask", "hi", *words, TMPDIR=str(tmp_path))
    assert all(not member["remote"] for member in default.lines[-1]["members"])


def test_only_its_producer_has_an_api_key_and_no_output_contains_it(tmp_path: Path, llama_url: str) -> None:
    secret = "secret-0123456789-abcdef"
    config = settings_file(tmp_path, here=f'url = "{llama_url}"\nmodels = ["tiny"]\nkey_env = "MY_SERVER_KEY"\n')
    common = ["--config", config, "--models", "tiny,ngram:char-6"]
    missing = council("ask", "hi", *common, "--json", TMPDIR=str(tmp_path), MY_SERVER_KEY="")
    missing.assert_refused("The environment variable MY_SERVER_KEY is empty")
    with contextlib.closing(Up(tmp_path, *common, MY_SERVER_KEY=secret, COUNCIL_LOG="debug")) as up:
        outcome = council(
            "ask", "hi", "--models", "tiny,ngram:char-6", "--max-tokens", "5", "--json", TMPDIR=str(tmp_path)
        )
        assert outcome.code == 0, outcome.said
        holders = {
            command_of(pid).partition(" -m ")[2].split()[0]
            for pid in up.family() - {up.process.pid}
            if secret in Path(f"/proc/{pid}/environ").read_bytes().decode("utf-8", "replace")
        }
        assert holders == {"producers"}
        ngram = next(pid for pid in up.family() if "ngram:char-6" in command_of(pid) and "producers" in command_of(pid))
        assert secret.encode() not in Path(f"/proc/{ngram}/environ").read_bytes()
        assert not any(secret in command_of(pid) for pid in up.family())
        assert secret.encode() not in dump_of(up)
        assert secret not in up.text()
        assert secret not in outcome.said + outcome.out


def dump_of(up: Up) -> bytes:
    """The whole content of the council's private Redis, uncompressed."""
    (url,) = {
        word.removeprefix(b"REDIS_URL=").decode()
        for pid in up.family()
        for word in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if word.startswith(b"REDIS_URL=")
    }
    with contextlib.closing(Pipe(url)) as pipe:
        replies = pipe.run([("CONFIG", "SET", "rdbcompression", "no"), ("SAVE",)])
    assert replies == [b"OK", b"OK"]
    dump = Path(url.removeprefix("unix://")).with_name("dump.rdb").read_bytes()
    assert b"ngram:char-6" in dump
    return dump


def test_one_model_name_on_two_servers_is_preceded_by_the_servers_name(tmp_path: Path, llama_url: str) -> None:
    lines = f'url = "{llama_url}"\nmodels = ["tiny"]\n'
    config = settings_file(tmp_path, one=lines, two=lines)
    words = ["--config", config, "--models", "one/tiny,two/tiny", "--max-tokens", "5", "--json", "--tier", "mid"]
    outcome = council("ask", "hi", *words, TMPDIR=str(tmp_path))
    assert outcome.code == 0, outcome.said
    assert [member["state"] for member in outcome.lines[-1]["members"]] == ["finished"] * 2
    council("ask", "hi", "--config", config, "--models", "tiny", TMPDIR=str(tmp_path)).assert_refused(
        "There is no model 'tiny'", "one/tiny"
    )


def test_a_server_that_is_away_is_reported_and_the_others_answer(tmp_path: Path) -> None:
    config = settings_file(tmp_path, gone='url = "http://127.0.0.1:1"\nmodels = ["tiny"]\n')
    with contextlib.closing(Up(tmp_path, "--config", config, "--models", "tiny,ngram:char-6")) as up:
        assert "The server 'gone': " in up.text()
        outcome = council("ask", "hi", "--max-tokens", "5", "--json", TMPDIR=str(tmp_path))
        assert [member["state"] for member in outcome.lines[-1]["members"]] == ["dropped", "finished"]
        assert "cannot be reached" in outcome.lines[-1]["members"][0]["reason"]


def test_ask_reports_servers_that_are_away_and_models_that_are_left_out(tmp_path: Path) -> None:
    """Also for a private council, whose demonstration must not be taken for the missing models."""
    config = settings_file(tmp_path, gone='url = "http://127.0.0.1:1"\n')
    outcome = council("ask", "hi", "--config", config, "--max-tokens", "2", "--json", TMPDIR=str(tmp_path))
    outcome.assert_said("The server 'gone': http://127.0.0.1:1 cannot be reached")
    with ollama("a:1b=1", "b:latest=1", "c:1b=1", load_s=0.05) as url:
        words = ["--models", "a:1b,b,c:1b", "--tier", "low", "--max-tokens", "2", "--json"]
        outcome = council("ask", "hi", *words, TMPDIR=str(tmp_path), OLLAMA_HOST=url)
        outcome.assert_said("The low tier runs 2 models at once; left out: c:1b.")
        assert [member["model"] for member in outcome.lines[-1]["members"]] == ["a:1b", "b:latest"]
        meant = council("ask", "hi", "--models", "A:1b", TMPDIR=str(tmp_path), OLLAMA_HOST=url)
        meant.assert_refused("There is no model 'A:1b'", "Did you mean 'a:1b'?")
    away = council("ask", "hi", "--models", "a:1b", TMPDIR=str(tmp_path), OLLAMA_HOST="127.0.0.1:1")
    away.assert_refused("Ollama at http://127.0.0.1:1 cannot be reached")


# --- options and chats ------------------------------------------------------------------------------------------------


def test_members_have_options_of_their_own_and_a_chat_is_continued(tmp_path: Path) -> None:
    with ollama("small:1b=1.3", load_s=0.05) as url:
        chat = tmp_path / "chat.json"
        turns = [("system", "Be kind."), ("user", "Who are you?"), ("assistant", "A model.")]
        chat.write_text(json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}))
        outcome = council(
            "ask", "And who else?", "--session-file", str(chat), "--models", "small:1b,ngram:char-6",
            "--model-option", "small:1b:temperature=0.2,max_tokens=4", "--max-tokens", "9", "--json",
            TMPDIR=str(tmp_path), OLLAMA_HOST=url,
        )  # fmt: skip
        assert outcome.code == 0, outcome.said
        assert [member["tokens"] for member in outcome.lines[-1]["members"]] == [4, 9]
        (asked,) = [request["body"] for request in books(url)["requests"] if request["body"].get("messages")]
        assert [(turn["role"], turn["content"]) for turn in asked["messages"]] == [*turns, ("user", "And who else?")]
        assert (asked["options"]["temperature"], asked["options"]["num_predict"]) == (0.2, 4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--session-file", "no-such.json"], ["no-such.json cannot be read"]),
        (["--session-file", "broken.json"], ["broken.json is not valid JSON"]),
        (["--session-file", "number.json"], ["number.json does not contain a list of messages"]),
        (["--session-file", "answered.json"], ["The last message must have the role user"]),
        ([], ["There is no prompt"]),
        (["hi", "--model-option", "temperature=0.2"], ["--model-option is 'temperature=0.2'"]),
        (["hi", "--model-option", "ngram:char-6:top_p=0.2"], ["'top_p=0.2' for 'ngram:char-6'", "temperature, seed"]),
        (["hi", "--model-option", "ngram:char-6:seed=many"], ["'seed=many'"]),
        (["hi", "--model-option", "nobody:seed=1"], ["There are options for the unknown member 'nobody'"]),
        (["hi", "--model-option", "ngram:char-6:seed=1.5", "--models", "ngram:char-6"], ["give a whole number"]),
        (["hi", "--session-file", "system.json", "--system", "x"], ["contain a system text"]),
    ],
)
def test_invalid_chats_and_options_are_refused_in_one_sentence(
    tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "number.json").write_text("7")
    (tmp_path / "answered.json").write_text('[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]')
    (tmp_path / "system.json").write_text('[{"role": "system", "content": "a"}]')
    council("ask", *arguments, cwd=tmp_path, TMPDIR=str(tmp_path)).assert_refused(*words)
    assert not list(tmp_path.glob("council-*")), os.listdir(tmp_path)
