"""The client library of Ollama."""

import base64
import json
import os

import ollama
from checks import GUARDED_URL, MODEL, PNG, QUESTION, TOKEN, URL, check, equal, main, raises, said
from ollama import AsyncClient, Client
from pydantic import BaseModel

client = Client(host=URL)
HELLO = [{"role": "user", "content": "Hello"}]
# A model of the library that the tests stand in for.
PULLED = os.environ["RBEE_PULLED_MODEL"]


class City(BaseModel):
    name: str
    population: int


def get_weather(city: str) -> str:
    """
    The weather in a city.

    Args:
      city: The name of the city.
    """
    return f"21 degrees in {city}"


def names():
    return [model.model for model in client.list().models]


@check
def models_are_listed_and_shown():
    [listed] = [model for model in client.list().models if model.model.startswith(MODEL)]
    assert listed.size > 0 and listed.digest and listed.modified_at, listed
    shown = client.show(MODEL)
    assert "completion" in shown.capabilities, shown.capabilities
    equal(shown.modelinfo["general.architecture"], "llama")
    equal(shown.details.format, "gguf")


@check
def chat():
    answer = client.chat(MODEL, messages=[{"role": "system", "content": "Be brief."}, *HELLO])
    equal((answer.message.role, answer.message.content), ("assistant", said("Hello", 2)))
    equal((answer.done, answer.done_reason), (True, "stop"))
    assert answer.prompt_eval_count > 0 and answer.eval_count > 0 and answer.total_duration > 0, answer


@check
def chat_streamed():
    pieces = list(client.chat(MODEL, messages=HELLO, stream=True))
    assert len(pieces) > 4, pieces
    equal("".join(piece.message.content or "" for piece in pieces), said("Hello"))
    equal([piece.done for piece in pieces], [False] * (len(pieces) - 1) + [True])
    assert pieces[-1].eval_count > 0, pieces[-1]


@check
async def chat_streamed_asynchronously():
    stream = await AsyncClient(host=URL).chat(MODEL, messages=HELLO, stream=True)
    equal("".join([piece.message.content or "" async for piece in stream]), said("Hello"))


@check
def chat_with_options():
    answer = client.chat(MODEL, messages=HELLO, options={"num_predict": 2, "temperature": 0.5, "seed": 7})
    equal((answer.done_reason, answer.eval_count), ("length", 2))
    answer = client.chat(MODEL, messages=HELLO, options={"stop": [","]})
    equal(answer.message.content, "1 messages")


@check
def a_tool_is_called_and_its_result_is_told():
    messages = [{"role": "user", "content": QUESTION}]
    first = client.chat(MODEL, messages=messages, tools=[get_weather])
    [call] = first.message.tool_calls
    equal((call.function.name, call.function.arguments), ("get_weather", {"city": "Paris"}))
    result = get_weather(**call.function.arguments)
    messages += [first.message, {"role": "tool", "content": result, "tool_name": call.function.name}]
    second = client.chat(MODEL, messages=messages, tools=[get_weather])
    equal(second.message.content, said("21 degrees in Paris", 3))


@check
def a_tool_is_called_in_a_stream():
    stream = client.chat(
        MODEL, messages=[{"role": "user", "content": QUESTION}], tools=[get_weather], stream=True
    )
    [call] = [call for piece in stream for call in piece.message.tool_calls or []]
    equal((call.function.name, call.function.arguments), ("get_weather", {"city": "Paris"}))


@check
def structured_output():
    messages = [{"role": "user", "content": "Describe Paris"}]
    answer = client.chat(MODEL, messages=messages, format=City.model_json_schema())
    equal(City.model_validate_json(answer.message.content), City(name="Paris", population=1))
    answer = client.chat(MODEL, messages=HELLO, format="json")
    equal(json.loads(answer.message.content), {"answer": "Hello"})


@check
def thinking():
    answer = client.chat(MODEL, messages=HELLO, think=True)
    equal((answer.message.thinking, answer.message.content), ("I think about: Hello", said("Hello")))
    answer = client.chat(MODEL, messages=HELLO, think=False)
    equal((answer.message.thinking or "", answer.message.content), ("", said("Hello")))


@check
def images():
    message = {"role": "user", "content": "What is this?", "images": [base64.b64decode(PNG)]}
    equal(client.chat(MODEL, messages=[message]).message.content, said("What is this? [image/png]"))


@check
def generate():
    answer = client.generate(MODEL, prompt="Hello", system="Be brief.")
    equal((answer.response, answer.done), (said("Hello", 2), True))
    pieces = list(client.generate(MODEL, prompt="Hello", stream=True))
    equal("".join(piece.response for piece in pieces), said("Hello"))
    raw = client.generate(MODEL, prompt="Once", raw=True)
    equal(raw.response, " and then Once")
    formatted = client.generate(MODEL, prompt="Describe Paris", format=City.model_json_schema())
    equal(City.model_validate_json(formatted.response), City(name="Paris", population=1))


@check
def embeddings():
    many = client.embed(MODEL, input=["one two", "three"])
    equal(len(many.embeddings), 2)
    [one] = client.embed(MODEL, input="one two").embeddings
    equal(list(one), list(many.embeddings[0]))
    assert many.embeddings[0] != many.embeddings[1] and many.prompt_eval_count > 0, many
    assert abs(sum(x * x for x in one) - 1) < 1e-3, "vectors of embed have the length 1"
    old = client.embeddings(MODEL, prompt="one two").embedding
    equal(len(old), len(one))


@check
def models_are_loaded_told_and_unloaded():
    loaded = client.generate(MODEL, prompt="", keep_alive="5m")
    equal((loaded.response, loaded.done_reason), ("", "load"))
    [running] = [model for model in client.ps().models if model.model.startswith(MODEL)]
    assert running.size > 0 and running.expires_at, running
    unloaded = client.generate(MODEL, prompt="", keep_alive=0)
    equal(unloaded.done_reason, "unload")
    equal([model for model in client.ps().models if model.model.startswith(MODEL)], [])


@check
def a_model_is_pulled_with_progress_copied_and_deleted():
    lines = list(client.pull(PULLED, stream=True))
    statuses = [line.status for line in lines]
    equal(statuses[0], "pulling manifest")
    equal(statuses[-1], "success")
    progress = [line for line in lines if line.total]
    assert progress, statuses
    equal(progress[-1].completed, progress[-1].total)
    assert any(name == PULLED for name in names()), names()
    equal(client.pull(PULLED).status, "success")

    equal(client.copy(PULLED, "mine").status, "success")
    assert "mine" in names(), names()
    equal(client.chat("mine", messages=HELLO).message.content, said("Hello"))
    equal(client.delete("mine").status, "success")
    assert "mine" not in names(), names()
    assert any(name == PULLED for name in names()), "a deleted copy leaves the model"
    # What answers of it are under way ends first.
    client.generate(PULLED, prompt="", keep_alive=0)
    equal(client.delete(PULLED).status, "success")
    assert PULLED not in names(), names()


@check
def errors_are_of_the_right_classes():
    unknown = raises(ollama.ResponseError, lambda: client.chat("no-such", messages=HELLO))
    equal(unknown.status_code, 404)
    assert "no-such" in unknown.error, unknown.error
    equal(raises(ollama.ResponseError, lambda: client.show("no-such")).status_code, 404)
    equal(raises(ollama.ResponseError, lambda: client.delete("no-such")).status_code, 404)
    equal(raises(ollama.ResponseError, lambda: client.copy("no-such", "other")).status_code, 404)
    wrong = raises(
        ollama.ResponseError, lambda: client.chat(MODEL, messages=HELLO, options={"temperature": "hot"})
    )
    equal(wrong.status_code, 400)
    assert "temperature" in wrong.error, wrong.error
    raises(ollama.ResponseError, lambda: list(client.pull("no-such-model", stream=True)))
    raises(ollama.ResponseError, lambda: client.pull("no-such-model"))


@check
def a_token_is_asked_for():
    refused = raises(ollama.ResponseError, Client(host=GUARDED_URL).list)
    equal(refused.status_code, 401)
    friend = Client(host=GUARDED_URL, headers={"Authorization": f"Bearer {TOKEN}"})
    assert any(model.model.startswith(MODEL) for model in friend.list().models)


main()
