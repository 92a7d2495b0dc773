"""LiteLLM, which speaks the dialects of OpenAI, of Anthropic and of Ollama."""

import json

import litellm
from checks import GUARDED_URL, MODEL, QUESTION, TOKEN, URL, check, equal, main, raises, said

# How LiteLLM reaches the hive in each dialect.
DIALECTS = [
    {"model": f"openai/{MODEL}", "api_base": f"{URL}/v1", "api_key": "unused"},
    {"model": f"anthropic/{MODEL}", "api_base": URL, "api_key": "unused"},
    {"model": f"ollama_chat/{MODEL}", "api_base": URL},
]
OPENAI = DIALECTS[0]
HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather.", "parameters": WEATHER},
}


@check
def chat():
    for dialect in DIALECTS:
        answer = litellm.completion(messages=HELLO, **dialect)
        equal(answer.choices[0].message.content, said("Hello"))
        equal(answer.choices[0].finish_reason, "stop")
        assert answer.usage.total_tokens > 0, (dialect, answer.usage)


@check
def chat_streamed():
    for dialect in DIALECTS:
        pieces = list(litellm.completion(messages=HELLO, stream=True, **dialect))
        text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
        equal(text, said("Hello"))
        assert len(pieces) > 4, (dialect, pieces)


@check
def a_tool_is_called_and_its_result_is_told():
    for dialect in DIALECTS:
        messages = [{"role": "user", "content": QUESTION}]
        first = litellm.completion(messages=messages, tools=[TOOL], **dialect)
        [call] = first.choices[0].message.tool_calls
        equal((call.function.name, json.loads(call.function.arguments)), ("get_weather", {"city": "Paris"}))
        result = {"role": "tool", "tool_call_id": call.id, "name": "get_weather", "content": "21 degrees"}
        messages += [first.choices[0].message.model_dump(), result]
        second = litellm.completion(messages=messages, tools=[TOOL], **dialect)
        equal(second.choices[0].message.content, said("21 degrees", 3))


@check
def structured_output():
    for dialect in (OPENAI, DIALECTS[2]):
        answer = litellm.completion(
            messages=[{"role": "user", "content": "Describe Paris"}],
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "weather", "schema": WEATHER, "strict": True},
            },
            **dialect,
        )
        equal(json.loads(answer.choices[0].message.content), {"city": "Paris"})


@check
def completions_embeddings_and_responses():
    text = litellm.text_completion(
        model=f"text-completion-openai/{MODEL}", prompt="Once", api_base=f"{URL}/v1", api_key="unused"
    )
    equal(text.choices[0].text, " and then Once")
    for dialect in (OPENAI, {"model": f"ollama/{MODEL}", "api_base": URL}):
        vectors = litellm.embedding(input=["one two", "three"], **dialect)
        equal(len(vectors.data), 2)
        assert len(vectors.data[0]["embedding"]) > 1
    answer = litellm.responses(input="Hello", **OPENAI)
    equal(answer.output_text, said("Hello"))


@check
def errors_are_of_the_right_classes():
    for dialect in DIALECTS[:2]:
        prefix = dialect["model"].split("/")[0]
        unknown = {**dialect, "model": f"{prefix}/no-such", "max_retries": 0}
        raises(litellm.NotFoundError, lambda: litellm.completion(messages=HELLO, **unknown))  # noqa: B023
    stranger = {"model": f"openai/{MODEL}", "api_base": f"{GUARDED_URL}/v1", "max_retries": 0}
    raises(
        litellm.AuthenticationError,
        lambda: litellm.completion(messages=HELLO, api_key="wrong", **stranger),
    )
    answer = litellm.completion(messages=HELLO, api_key=TOKEN, **stranger)
    equal(answer.choices[0].message.content, said("Hello"))


main()
