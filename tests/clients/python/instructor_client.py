"""Instructor, which fills in Pydantic models."""

import instructor
from checks import MODEL, URL, check, equal, main
from openai import OpenAI
from pydantic import BaseModel

server = OpenAI(base_url=f"{URL}/v1", api_key="unused", max_retries=0)
MESSAGES = [{"role": "user", "content": "Describe Paris"}]


class City(BaseModel):
    name: str
    population: int


@check
def each_way_to_ask_for_a_structure():
    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
        client = instructor.from_openai(server, mode=mode)
        city = client.create(model=MODEL, response_model=City, messages=MESSAGES, max_retries=0)
        # It is of a class that Instructor derives.
        equal(city.model_dump(), {"name": "Paris", "population": 1})


@check
def a_structure_arrives_in_parts():
    client = instructor.from_openai(server, mode=instructor.Mode.JSON_SCHEMA)
    parts = list(client.create_partial(model=MODEL, response_model=City, messages=MESSAGES))
    assert len(parts) > 1, parts
    equal((parts[-1].name, parts[-1].population), ("Paris", 1))


main()
