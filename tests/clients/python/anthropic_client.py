"""The client library of Anthropic."""

import json

import anthropic
from anthropic import Anthropic, AsyncAnthropic
from checks import GUARDED_URL, MODEL, PNG, QUESTION, TOKEN, URL, check, equal, main, raises, said
from pydantic import BaseModel

client = Anthropic(base_url=URL, api_key="unused", max_retries=0)
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class City(BaseModel):
    name: str
    population: int


@check
def models_are_listed_and_found():
    models = list(client.models.list())
    assert MODEL in [model.id for model in models], models
    assert all(model.type == "model" and model.created_at for model in models), models
    equal(client.models.retrieve(MODEL).id, MODEL)


@check
def messages():
    answer = client.messages.create(model=MODEL, max_tokens=100, system="Be brief.", messages=HELLO)
    [block] = answer.content
    equal((block.type, block.text), ("text", said("Hello", 2)))
    equal((answer.type, answer.role, answer.stop_reason), ("message", "assistant", "end_turn"))
    assert answer.usage.input_tokens > 0 and answer.usage.output_tokens > 0, answer.usage


@check
def messages_streamed():
    with client.messages.stream(model=MODEL, max_tokens=100, messages=HELLO) as stream:
        pieces = list(stream.text_stream)
        answer = stream.get_final_message()
    assert len(pieces) > 3, pieces
    equal("".join(pieces), said("Hello"))
    equal((answer.content[0].text, answer.stop_reason), (said("Hello"), "end_turn"))
    assert answer.usage.output_tokens > 0, answer.usage
    kinds = [
        event.type for event in client.messages.create(model=MODEL, max_tokens=99, messages=HELLO, stream=True)
    ]
    order = [kind for at, kind in enumerate(kinds) if kinds.index(kind) == at]
    equal(
        [kind for kind in order if kind != "ping"],
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ],
    )


@check
async def messages_streamed_asynchronously():
    async with AsyncAnthropic(base_url=URL, api_key="unused", max_retries=0) as client:
        async with client.messages.stream(model=MODEL, max_tokens=100, messages=HELLO) as stream:
            equal("".join([text async for text in stream.text_stream]), said("Hello"))


@check
def messages_with_a_limit_and_a_stop():
    answer = client.messages.create(model=MODEL, max_tokens=2, messages=HELLO)
    equal((answer.stop_reason, answer.usage.output_tokens), ("max_tokens", 2))
    answer = client.messages.create(model=MODEL, max_tokens=100, messages=HELLO, stop_sequences=[","])
    equal(answer.content[0].text, "1 messages")


@check
def a_tool_is_called_and_its_result_is_told():
    messages = [{"role": "user", "content": QUESTION}]
    first = client.messages.create(model=MODEL, max_tokens=100, messages=messages, tools=[TOOL])
    equal(first.stop_reason, "tool_use")
    [call] = [block for block in first.content if block.type == "tool_use"]
    equal((call.name, call.input), ("get_weather", {"city": "Paris"}))
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "21 degrees"}
    messages += [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    second = client.messages.create(model=MODEL, max_tokens=100, messages=messages, tools=[TOOL])
    equal(second.content[0].text, said("21 degrees", 3))


@check
def a_tool_is_called_in_a_stream():
    with client.messages.stream(
        model=MODEL,
        max_tokens=100,
        messages=[{"role": "user", "content": QUESTION}],
        tools=[TOOL],
        tool_choice={"type": "tool", "name": "get_weather"},
    ) as stream:
        parts = [event.partial_json for event in stream if event.type == "input_json"]
        answer = stream.get_final_message()
    equal(json.loads("".join(parts)), {"city": "Paris"})
    [call] = [block for block in answer.content if block.type == "tool_use"]
    equal((call.name, call.input, answer.stop_reason), ("get_weather", {"city": "Paris"}, "tool_use"))


@check
def thinking():
    thinking = {"type": "enabled", "budget_tokens": 1024}
    answer = client.messages.create(model=MODEL, max_tokens=2048, messages=HELLO, thinking=thinking)
    thought, text = answer.content
    equal((thought.type, thought.thinking), ("thinking", "I think about: Hello"))
    equal(text.text, said("Hello"))
    # The thought goes back with the conversation.
    more = [*HELLO, {"role": "assistant", "content": answer.content}, {"role": "user", "content": "More"}]
    with client.messages.stream(model=MODEL, max_tokens=2048, messages=more, thinking=thinking) as stream:
        kinds = {event.type for event in stream}
        answer = stream.get_final_message()
    assert {"thinking", "signature"} <= kinds, kinds
    equal([block.type for block in answer.content], ["thinking", "text"])
    equal(answer.content[1].text, said("More", 3))


@check
def images():
    source = {"type": "base64", "media_type": "image/png", "data": PNG}
    content = [{"type": "text", "text": "What is this?"}, {"type": "image", "source": source}]
    answer = client.messages.create(
        model=MODEL, max_tokens=100, messages=[{"role": "user", "content": content}]
    )
    equal(answer.content[0].text, said("What is this? [image/png]"))


@check
def structured_output():
    answer = client.messages.parse(
        model=MODEL,
        max_tokens=100,
        messages=[{"role": "user", "content": "Describe Paris"}],
        output_format=City,
    )
    equal(answer.parsed_output, City(name="Paris", population=1))


@check
def tokens_are_counted():
    few = client.messages.count_tokens(model=MODEL, messages=HELLO).input_tokens
    more = client.messages.count_tokens(
        model=MODEL, system="Be very brief.", messages=HELLO, tools=[TOOL]
    ).input_tokens
    assert 0 < few < more, (few, more)


@check
def errors_are_of_the_right_classes():
    unknown = raises(
        anthropic.NotFoundError,
        lambda: client.messages.create(model="no-such", max_tokens=9, messages=HELLO),
    )
    equal((unknown.body["type"], unknown.body["error"]["type"]), ("error", "not_found_error"))
    assert "no-such" in unknown.message, unknown.message
    wrong = raises(
        anthropic.BadRequestError, lambda: client.messages.create(model=MODEL, max_tokens=9, messages=[])
    )
    equal(wrong.body["error"]["type"], "invalid_request_error")
    raises(
        anthropic.NotFoundError, lambda: client.messages.count_tokens(model="no-such", messages=HELLO)
    )
    raises(anthropic.NotFoundError, lambda: client.models.retrieve("no-such"))


@check
def a_token_is_asked_for():
    stranger = Anthropic(base_url=GUARDED_URL, api_key="wrong", max_retries=0)
    refused = raises(
        anthropic.AuthenticationError,
        lambda: stranger.messages.create(model=MODEL, max_tokens=9, messages=HELLO),
    )
    equal(refused.body["error"]["type"], "authentication_error")
    # As `x-api-key`, and as a bearer token, which Claude Code sends for ANTHROPIC_AUTH_TOKEN.
    for key in ({"api_key": TOKEN}, {"auth_token": TOKEN}):
        friend = Anthropic(base_url=GUARDED_URL, max_retries=0, **key)
        assert MODEL in [model.id for model in friend.models.list()]


main()
