"""LangChain's client of OpenAI's API."""

import openai
from checks import GUARDED_URL, MODEL, PNG, QUESTION, URL, check, equal, main, raises, said
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

SERVER = {"base_url": f"{URL}/v1", "api_key": "unused", "max_retries": 0}
model = ChatOpenAI(model=MODEL, **SERVER)


class City(BaseModel):
    """A city."""

    name: str
    population: int


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"21 degrees in {city}"


@check
def chat():
    answer = model.invoke([SystemMessage("Be brief."), HumanMessage("Hello")])
    equal(answer.content, said("Hello", 2))
    equal(answer.response_metadata["finish_reason"], "stop")
    assert answer.usage_metadata["total_tokens"] > 0, answer


@check
def chat_streamed():
    pieces = list(model.stream("Hello"))
    assert len(pieces) > 4, pieces
    equal("".join(piece.content for piece in pieces), said("Hello"))


@check
async def chat_streamed_asynchronously():
    equal("".join([piece.content async for piece in model.astream("Hello")]), said("Hello"))


@check
def a_tool_is_called_and_its_result_is_told():
    with_tools = model.bind_tools([get_weather])
    first = with_tools.invoke(QUESTION)
    [call] = first.tool_calls
    equal((call["name"], call["args"]), ("get_weather", {"city": "Paris"}))
    result = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
    second = with_tools.invoke([HumanMessage(QUESTION), first, result])
    equal(second.content, said("21 degrees in Paris", 3))
    streamed = None
    for piece in with_tools.stream(QUESTION):
        streamed = piece if streamed is None else streamed + piece
    equal(streamed.tool_calls[0]["args"], {"city": "Paris"})


@check
def structured_output():
    for method in ("json_schema", "function_calling"):
        equal(
            model.with_structured_output(City, method=method).invoke("Describe Paris"),
            City(name="Paris", population=1),
        )


@check
def images():
    content = [
        {"type": "text", "text": "What is this?"},
        {"type": "image", "base64": PNG, "mime_type": "image/png"},
    ]
    equal(model.invoke([HumanMessage(content)]).content, said("What is this? [image/png]"))


@check
def the_responses_api():
    answer = ChatOpenAI(model=MODEL, use_responses_api=True, **SERVER).invoke("Hello")
    equal(answer.text, said("Hello"))


@check
def embeddings():
    # Without this setting it sends tokens of OpenAI's tokenizer in place of texts.
    vectors = OpenAIEmbeddings(model=MODEL, check_embedding_ctx_length=False, **SERVER)
    equal(len(vectors.embed_documents(["one two", "three"])), 2)
    assert len(vectors.embed_query("one two")) > 1


@check
def errors_are_of_the_right_classes():
    raises(openai.NotFoundError, lambda: ChatOpenAI(model="no-such", **SERVER).invoke("Hello"))
    stranger = ChatOpenAI(model=MODEL, base_url=f"{GUARDED_URL}/v1", api_key="wrong", max_retries=0)
    raises(openai.AuthenticationError, lambda: stranger.invoke("Hello"))


main()
