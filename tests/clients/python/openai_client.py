"""The client library of OpenAI."""

import json

import openai
from checks import GUARDED_URL, MODEL, PNG, QUESTION, TOKEN, URL, check, equal, main, raises, said
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

client = OpenAI(base_url=f"{URL}/v1", api_key="unused", max_retries=0)
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}
HELLO = [{"role": "user", "content": "Hello"}]


class City(BaseModel):
    name: str
    population: int


@check
def models_are_listed_and_found():
    ids = [model.id for model in client.models.list()]
    assert MODEL in ids, ids
    equal(client.models.retrieve(MODEL).id, MODEL)


@check
def chat():
    messages = [{"role": "system", "content": "Be brief."}, *HELLO]
    answer = client.chat.completions.create(model=MODEL, messages=messages)
    equal(answer.choices[0].message.content, said("Hello", 2))
    equal(answer.choices[0].finish_reason, "stop")
    equal(answer.object, "chat.completion")
    equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)


@check
def chat_streamed():
    options = {"include_usage": True}
    stream = client.chat.completions.create(model=MODEL, messages=HELLO, stream=True, stream_options=options)
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    equal(text, said("Hello"))
    assert len(chunks) > 4, "it came in pieces"
    equal([chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1], "stop")
    assert chunks[-1].usage.completion_tokens > 0, chunks[-1]


@check
async def chat_streamed_asynchronously():
    async with AsyncOpenAI(base_url=f"{URL}/v1", api_key="unused", max_retries=0) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        text = ""
        async for chunk in stream:
            text += chunk.choices[0].delta.content or "" if chunk.choices else ""
    equal(text, said("Hello"))


@check
def chat_with_a_limit_and_a_stop():
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, max_completion_tokens=2)
    equal((answer.choices[0].finish_reason, answer.usage.completion_tokens), ("length", 2))
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, stop=[","])
    equal((answer.choices[0].finish_reason, answer.choices[0].message.content), ("stop", "1 messages"))


@check
def chat_with_several_answers_and_their_probabilities():
    answer = client.chat.completions.create(
        model=MODEL, messages=HELLO, n=2, logprobs=True, top_logprobs=1, temperature=1.5, seed=7
    )
    equal([choice.index for choice in answer.choices], [0, 1])
    for choice in answer.choices:
        equal("".join(token.token for token in choice.logprobs.content), choice.message.content)
        assert all(token.logprob <= 0 and len(token.top_logprobs) == 1 for token in choice.logprobs.content)


@check
def a_tool_is_called_and_its_result_is_told():
    messages = [{"role": "user", "content": QUESTION}]
    first = client.chat.completions.create(model=MODEL, messages=messages, tools=[TOOL])
    equal(first.choices[0].finish_reason, "tool_calls")
    [call] = first.choices[0].message.tool_calls
    equal((call.function.name, json.loads(call.function.arguments)), ("get_weather", {"city": "Paris"}))
    result = {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"}
    messages += [first.choices[0].message, result]
    second = client.chat.completions.create(model=MODEL, messages=messages, tools=[TOOL])
    equal(second.choices[0].message.content, said("21 degrees", 3))


@check
def a_tool_is_called_in_a_stream():
    with client.chat.completions.stream(
        model=MODEL, messages=[{"role": "user", "content": QUESTION}], tools=[TOOL], tool_choice="required"
    ) as stream:
        events = {event.type for event in stream}
        [call] = stream.get_final_completion().choices[0].message.tool_calls
    assert "tool_calls.function.arguments.done" in events, events
    equal((call.function.name, json.loads(call.function.arguments)), ("get_weather", {"city": "Paris"}))


@check
def structured_output():
    answer = client.chat.completions.parse(
        model=MODEL, messages=[{"role": "user", "content": "Describe Paris"}], response_format=City
    )
    equal(answer.choices[0].message.parsed, City(name="Paris", population=1))
    answer = client.chat.completions.create(
        model=MODEL, messages=HELLO, response_format={"type": "json_object"}
    )
    equal(json.loads(answer.choices[0].message.content), {"answer": "Hello"})


@check
def reasoning():
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, reasoning_effort="high")
    equal(answer.choices[0].message.reasoning_content, "I think about: Hello")
    equal(answer.choices[0].message.content, said("Hello"))


@check
def images():
    content = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
    ]
    answer = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": content}])
    equal(answer.choices[0].message.content, said("What is this? [image/png]"))


@check
def completions():
    answer = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=8)
    equal((answer.object, answer.choices[0].text), ("text_completion", " and then Once upon a time"))
    stream = client.completions.create(model=MODEL, prompt="Once", stream=True)
    equal("".join(chunk.choices[0].text for chunk in stream if chunk.choices), " and then Once")


@check
def embeddings():
    # The library asks for base64 where it is not told otherwise.
    one = client.embeddings.create(model=MODEL, input="one two")
    many = client.embeddings.create(model=MODEL, input=["one two", "three"], encoding_format="float")
    equal([item.index for item in many.data], [0, 1])
    assert len(one.data[0].embedding) == len(many.data[0].embedding) > 1
    for found, expected in zip(one.data[0].embedding, many.data[0].embedding, strict=True):
        assert abs(found - expected) < 1e-6
    assert many.data[0].embedding != many.data[1].embedding
    assert many.usage.prompt_tokens > 0


@check
def responses():
    answer = client.responses.create(model=MODEL, input="Hello", instructions="Be brief.")
    equal((answer.output_text, answer.status), (said("Hello", 2), "completed"))
    assert answer.usage.input_tokens > 0 and answer.usage.output_tokens > 0, answer.usage
    # The instructions are not carried over, the messages are.
    follow_up = client.responses.create(model=MODEL, input="And you?", previous_response_id=answer.id)
    equal(follow_up.output_text, said("And you?", 3))
    equal(follow_up.previous_response_id, answer.id)


@check
def responses_streamed():
    stream = client.responses.create(model=MODEL, input="Hello", stream=True)
    events = list(stream)
    kinds = [event.type for event in events]
    equal(kinds[:2], ["response.created", "response.in_progress"])
    equal(kinds[-1], "response.completed")
    order = [kind for at, kind in enumerate(kinds) if kinds.index(kind) == at][2:]
    equal(
        order,
        [
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ],
    )
    equal([event.sequence_number for event in events], list(range(len(events))))
    equal("".join(event.delta for event in events if event.type == "response.output_text.delta"), said("Hello"))
    equal(events[-1].response.output_text, said("Hello"))
    with client.responses.stream(model=MODEL, input="Hello") as stream:
        for _ in stream:
            pass
        equal(stream.get_final_response().output_text, said("Hello"))


@check
def responses_with_tools():
    tool = {"type": "function", "name": "get_weather", "parameters": WEATHER, "strict": True}
    first = client.responses.create(model=MODEL, input=QUESTION, tools=[tool])
    [call] = [item for item in first.output if item.type == "function_call"]
    equal((call.name, json.loads(call.arguments)), ("get_weather", {"city": "Paris"}))
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"}
    second = client.responses.create(
        model=MODEL, input=[result], tools=[tool], previous_response_id=first.id
    )
    equal(second.output_text, said("21 degrees", 3))
    stream = client.responses.create(model=MODEL, input=QUESTION, tools=[tool], stream=True)
    kinds = [event.type for event in stream]
    assert "response.function_call_arguments.delta" in kinds, kinds
    assert "response.function_call_arguments.done" in kinds, kinds


@check
def responses_with_structured_output_reasoning_and_images():
    answer = client.responses.parse(model=MODEL, input="Describe Paris", text_format=City)
    equal(answer.output_parsed, City(name="Paris", population=1))
    answer = client.responses.create(model=MODEL, input="Hello", reasoning={"effort": "high"})
    equal([item.type for item in answer.output], ["reasoning", "message"])
    content = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"},
    ]
    answer = client.responses.create(model=MODEL, input=[{"role": "user", "content": content}])
    equal(answer.output_text, said("What is this? [image/png]"))


@check
def errors_are_of_the_right_classes():
    unknown = raises(
        openai.NotFoundError, lambda: client.chat.completions.create(model="no-such", messages=HELLO)
    )
    equal(unknown.code, "model_not_found")
    assert "no-such" in unknown.message, unknown.message
    wrong = raises(openai.BadRequestError, lambda: client.chat.completions.create(model=MODEL, messages=[]))
    assert "messages" in wrong.message, wrong.message
    raises(openai.NotFoundError, lambda: client.embeddings.create(model="no-such", input="x"))
    raises(openai.NotFoundError, lambda: client.responses.create(model="no-such", input="x"))
    raises(openai.NotFoundError, lambda: client.models.retrieve("no-such"))
    lost = raises(
        openai.BadRequestError,
        lambda: client.responses.create(model=MODEL, input="x", previous_response_id="resp_none"),
    )
    equal(lost.code, "previous_response_not_found")


@check
def a_token_is_asked_for():
    stranger = OpenAI(base_url=f"{GUARDED_URL}/v1", api_key="wrong", max_retries=0)
    raises(openai.AuthenticationError, stranger.models.list)
    friend = OpenAI(base_url=f"{GUARDED_URL}/v1", api_key=TOKEN, max_retries=0)
    assert MODEL in [model.id for model in friend.models.list()]


main()
