"""Pydantic AI, by OpenAI's chat completions, its responses and its provider for Ollama."""

from checks import GUARDED_URL, MODEL, PNG, QUESTION, URL, check, equal, main, raises, said
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, NativeOutput, ToolOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.ollama import OllamaProvider
from pydantic_ai.providers.openai import OpenAIProvider

provider = OpenAIProvider(base_url=f"{URL}/v1", api_key="unused")
MODELS = [
    OpenAIChatModel(MODEL, provider=provider),
    OpenAIResponsesModel(MODEL, provider=provider),
    OpenAIChatModel(MODEL, provider=OllamaProvider(base_url=f"{URL}/v1")),
]


class City(BaseModel):
    name: str
    population: int


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"21 degrees in {city}"


@check
async def chat():
    for model in MODELS:
        answer = await Agent(model, system_prompt="Be brief.").run("Hello")
        equal(answer.output, said("Hello", 2))
        assert answer.usage.output_tokens > 0, answer.usage


@check
async def chat_streamed():
    for model in MODELS:
        async with Agent(model).run_stream("Hello") as stream:
            pieces = [piece async for piece in stream.stream_text(delta=True, debounce_by=None)]
        equal("".join(pieces), said("Hello"))
        assert len(pieces) > 3, pieces


@check
async def a_tool_is_called_and_its_result_is_told():
    for model in MODELS:
        answer = await Agent(model, tools=[get_weather]).run(QUESTION)
        equal(answer.output, said("21 degrees in Paris", 3))


@check
async def structured_output():
    for model in MODELS:
        for output in (ToolOutput(City), NativeOutput(City)):
            answer = await Agent(model, output_type=output).run("Describe Paris")
            equal(answer.output, City(name="Paris", population=1))


@check
async def images():
    import base64

    image = BinaryContent(base64.b64decode(PNG), media_type="image/png")
    for model in MODELS:
        answer = await Agent(model).run(["What is this?", image])
        equal(answer.output, said("What is this? [image/png]"))


@check
def errors_are_of_the_right_classes():
    unknown = Agent(OpenAIChatModel("no-such", provider=provider))
    equal(raises(ModelHTTPError, lambda: unknown.run_sync("Hello")).status_code, 404)
    stranger = OpenAIProvider(base_url=f"{GUARDED_URL}/v1", api_key="wrong")
    refused = Agent(OpenAIChatModel(MODEL, provider=stranger))
    equal(raises(ModelHTTPError, lambda: refused.run_sync("Hello")).status_code, 401)


main()
