"""The command llm, and the library behind it."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from checks import GUARDED_URL, MODEL, QUESTION, TOKEN, URL, check, equal, main, raises, said

folder = tempfile.TemporaryDirectory()
COMMON = "supports_tools: true\n  supports_schema: true"
Path(folder.name, "extra-openai-models.yaml").write_text(
    f"- model_id: chat\n  model_name: {MODEL}\n  api_base: {URL}/v1\n  {COMMON}\n"
    f"- model_id: responses\n  model_name: {MODEL}\n  api_base: {URL}/v1\n  responses: true\n  {COMMON}\n"
    f"- model_id: completion\n  model_name: {MODEL}\n  api_base: {URL}/v1\n  completion: true\n"
    f"- model_id: unknown\n  model_name: no-such\n  api_base: {URL}/v1\n"
    f"- model_id: guarded\n  model_name: {MODEL}\n  api_base: {GUARDED_URL}/v1\n  api_key_name: hive\n"
)
os.environ["LLM_USER_PATH"] = folder.name

import llm  # noqa: E402
import openai  # noqa: E402


def get_weather(city: str) -> str:
    "The weather in a city."
    return f"21 degrees in {city}"


def command(*words):
    """What the command prints."""
    words = [str(Path(sys.executable).with_name("llm")), *words]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, (words, ended.returncode, ended.stdout, ended.stderr)
    return ended.stdout.strip()


@check
def the_command():
    equal(command("-m", "chat", "-s", "Be brief.", "Hello"), said("Hello", 2))
    equal(command("-c", "And you?"), said("And you?", 4))


@check
def prompts():
    for name in ("chat", "responses"):
        for stream in (True, False):
            equal(llm.get_model(name).prompt("Hello", stream=stream).text(), said("Hello"))
    equal(llm.get_model("completion").prompt("Once").text(), " and then Once")


@check
def a_tool_is_called_and_its_result_is_told():
    for name in ("chat", "responses"):
        chain = llm.get_model(name).chain(QUESTION, tools=[get_weather])
        equal(chain.text(), said("21 degrees in Paris", 3))


@check
def structured_output():
    schema = llm.schema_dsl("name, population int")
    for name in ("chat", "responses"):
        city = llm.get_model(name).prompt("Describe Paris", schema=schema).text()
        equal(json.loads(city), {"name": "Paris", "population": 1})


@check
def errors_are_of_the_right_classes():
    raises(openai.NotFoundError, lambda: llm.get_model("unknown").prompt("Hello").text())
    guarded = llm.get_model("guarded")
    raises(openai.AuthenticationError, lambda: guarded.prompt("Hello", key="wrong").text())
    equal(guarded.prompt("Hello", key=TOKEN).text(), said("Hello"))


main()
