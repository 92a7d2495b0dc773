// The client library of OpenAI.

import assert from "node:assert/strict";
import OpenAI, { AuthenticationError, BadRequestError, NotFoundError } from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { GUARDED_URL, MODEL, PNG, QUESTION, TOKEN, URL, WEATHER, all, raises, run, said } from "./checks.mjs";

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: "unused", maxRetries: 0 });
const model = MODEL;
const hello = [{ role: "user", content: "Hello" }];
const tool = { type: "function", function: { name: "get_weather", parameters: WEATHER } };
const City = z.object({ name: z.string(), population: z.number().int() });
const paris = { name: "Paris", population: 1 };

await run({
  models: async () => {
    const models = await all(await client.models.list());
    assert(models.some(({ id }) => id === MODEL), JSON.stringify(models));
    assert.equal((await client.models.retrieve(MODEL)).id, MODEL);
  },

  chat: async () => {
    const messages = [{ role: "system", content: "Be brief." }, ...hello];
    const answer = await client.chat.completions.create({ model, messages });
    assert.equal(answer.choices[0].message.content, said("Hello", 2));
    assert.equal(answer.choices[0].finish_reason, "stop");
    assert(answer.usage.total_tokens > 0);
  },

  chatStreamed: async () => {
    const chunks = await all(await client.chat.completions.create({ model, messages: hello, stream: true }));
    assert.equal(chunks.map(({ choices }) => choices[0]?.delta.content ?? "").join(""), said("Hello"));
    assert(chunks.length > 4);
  },

  toolIsCalledAndItsResultIsTold: async () => {
    const messages = [{ role: "user", content: QUESTION }];
    const first = await client.chat.completions.create({ model, messages, tools: [tool] });
    const [call] = first.choices[0].message.tool_calls;
    assert.deepEqual(JSON.parse(call.function.arguments), { city: "Paris" });
    messages.push(first.choices[0].message, { role: "tool", tool_call_id: call.id, content: "21 degrees" });
    const second = await client.chat.completions.create({ model, messages, tools: [tool] });
    assert.equal(second.choices[0].message.content, said("21 degrees", 3));
  },

  toolIsRunInAStream: async () => {
    const runner = client.chat.completions.runTools({
      model,
      stream: true,
      messages: [{ role: "user", content: QUESTION }],
      tools: [
        {
          type: "function",
          function: {
            name: "get_weather",
            parameters: WEATHER,
            parse: JSON.parse,
            function: ({ city }) => `21 degrees in ${city}`,
          },
        },
      ],
    });
    assert.equal(await runner.finalContent(), said("21 degrees in Paris", 3));
  },

  structuredOutput: async () => {
    const answer = await client.chat.completions.parse({
      model,
      messages: [{ role: "user", content: "Describe Paris" }],
      response_format: zodResponseFormat(City, "city"),
    });
    assert.deepEqual(answer.choices[0].message.parsed, paris);
  },

  images: async () => {
    const content = [
      { type: "text", text: "What is this?" },
      { type: "image_url", image_url: { url: `data:image/png;base64,${PNG}` } },
    ];
    const answer = await client.chat.completions.create({ model, messages: [{ role: "user", content }] });
    assert.equal(answer.choices[0].message.content, said("What is this? [image/png]"));
  },

  completions: async () => {
    const answer = await client.completions.create({ model, prompt: "Once" });
    assert.equal(answer.choices[0].text, " and then Once");
    const chunks = await all(await client.completions.create({ model, prompt: "Once", stream: true }));
    assert.equal(chunks.map(({ choices }) => choices[0]?.text ?? "").join(""), " and then Once");
  },

  embeddings: async () => {
    const { data } = await client.embeddings.create({ model, input: ["one two", "three"] });
    assert.equal(data.length, 2);
    assert(data[0].embedding.length > 1 && data[0].embedding.every(Number.isFinite));
  },

  responses: async () => {
    const first = await client.responses.create({ model, input: "Hello" });
    assert.equal(first.output_text, said("Hello"));
    const second = await client.responses.create({ model, input: "More", previous_response_id: first.id });
    assert.equal(second.output_text, said("More", 3));
    const stream = client.responses.stream({ model, input: "Hello" });
    const kinds = (await all(stream)).map(({ type }) => type);
    assert(kinds.includes("response.output_text.delta"), kinds.join(" "));
    assert.equal((await stream.finalResponse()).output_text, said("Hello"));
    const parsed = await client.responses.parse({
      model,
      input: "Describe Paris",
      text: { format: zodTextFormat(City, "city") },
    });
    assert.deepEqual(parsed.output_parsed, paris);
  },

  responsesWithTools: async () => {
    const tools = [{ type: "function", name: "get_weather", parameters: WEATHER, strict: true }];
    const first = await client.responses.create({ model, input: QUESTION, tools });
    const call = first.output.find(({ type }) => type === "function_call");
    assert.deepEqual(JSON.parse(call.arguments), { city: "Paris" });
    const input = [
      { role: "user", content: QUESTION },
      ...first.output,
      { type: "function_call_output", call_id: call.call_id, output: "21 degrees" },
    ];
    const second = await client.responses.create({ model, input, tools });
    assert.equal(second.output_text, said("21 degrees", 3));
  },

  errorsAreOfTheRightClasses: async () => {
    const unknown = await raises(NotFoundError, () =>
      client.chat.completions.create({ model: "no-such", messages: hello }),
    );
    assert.equal(unknown.code, "model_not_found");
    await raises(BadRequestError, () => client.chat.completions.create({ model, messages: [] }));
    await raises(NotFoundError, () => client.responses.create({ model: "no-such", input: "x" }));
    const stranger = new OpenAI({ baseURL: `${GUARDED_URL}/v1`, apiKey: "wrong", maxRetries: 0 });
    await raises(AuthenticationError, () => stranger.chat.completions.create({ model, messages: hello }));
    const friend = new OpenAI({ baseURL: `${GUARDED_URL}/v1`, apiKey: TOKEN, maxRetries: 0 });
    const answer = await friend.chat.completions.create({ model, messages: hello });
    assert.equal(answer.choices[0].message.content, said("Hello"));
  },
});
