// The client library of Anthropic.

import assert from "node:assert/strict";
import Anthropic, { AuthenticationError, BadRequestError, NotFoundError } from "@anthropic-ai/sdk";
import { GUARDED_URL, MODEL, PNG, QUESTION, TOKEN, URL, WEATHER, all, raises, run, said } from "./checks.mjs";

const client = new Anthropic({ baseURL: URL, apiKey: "unused", maxRetries: 0 });
const messages = [{ role: "user", content: "Hello" }];
const hello = { model: MODEL, max_tokens: 100, messages };
const tools = [{ name: "get_weather", description: "The weather in a city.", input_schema: WEATHER }];

await run({
  models: async () => {
    const models = await all(client.models.list());
    assert(models.some(({ id }) => id === MODEL), JSON.stringify(models));
  },

  messages: async () => {
    const answer = await client.messages.create({ ...hello, system: "Be brief." });
    assert.deepEqual(answer.content.map(({ text }) => text), [said("Hello", 2)]);
    assert.equal(answer.stop_reason, "end_turn");
  },

  messagesStreamed: async () => {
    const stream = client.messages.stream(hello);
    const pieces = [];
    stream.on("text", (text) => pieces.push(text));
    assert.equal(await stream.finalText(), said("Hello"));
    assert.equal(pieces.join(""), said("Hello"));
    assert(pieces.length > 3);
  },

  toolIsCalledAndItsResultIsTold: async () => {
    const question = [{ role: "user", content: QUESTION }];
    const first = await client.messages.create({ ...hello, messages: question, tools });
    assert.equal(first.stop_reason, "tool_use");
    const call = first.content.find(({ type }) => type === "tool_use");
    assert.deepEqual(call.input, { city: "Paris" });
    const result = { type: "tool_result", tool_use_id: call.id, content: [{ type: "text", text: "21 degrees" }] };
    const more = [...question, { role: "assistant", content: first.content }, { role: "user", content: [result] }];
    const second = await client.messages.create({ ...hello, messages: more, tools });
    assert.equal(second.content[0].text, said("21 degrees", 3));
    const streamed = await client.messages.stream({ ...hello, messages: question, tools }).finalMessage();
    assert.deepEqual(streamed.content.find(({ type }) => type === "tool_use").input, { city: "Paris" });
  },

  thinking: async () => {
    const thinking = { type: "enabled", budget_tokens: 1024 };
    const stream = client.messages.stream({ ...hello, max_tokens: 2048, thinking });
    const { content } = await stream.finalMessage();
    assert.deepEqual(content.map(({ type }) => type), ["thinking", "text"]);
    assert.equal(content[0].thinking, "I think about: Hello");
  },

  images: async () => {
    const source = { type: "base64", media_type: "image/png", data: PNG };
    const content = [{ type: "text", text: "What is this?" }, { type: "image", source }];
    const answer = await client.messages.create({ ...hello, messages: [{ role: "user", content }] });
    assert.equal(answer.content[0].text, said("What is this? [image/png]"));
  },

  tokensAreCounted: async () => {
    const { input_tokens } = await client.messages.countTokens({ model: MODEL, messages });
    assert(input_tokens > 0);
  },

  errorsAreOfTheRightClasses: async () => {
    await raises(NotFoundError, () => client.messages.create({ ...hello, model: "no-such" }));
    await raises(BadRequestError, () => client.messages.create({ ...hello, messages: [] }));
    const stranger = new Anthropic({ baseURL: GUARDED_URL, apiKey: "wrong", maxRetries: 0 });
    await raises(AuthenticationError, () => stranger.messages.create(hello));
    for (const key of [{ apiKey: TOKEN }, { authToken: TOKEN, apiKey: null }]) {
      const friend = new Anthropic({ baseURL: GUARDED_URL, maxRetries: 0, ...key });
      assert.equal((await friend.messages.create(hello)).content[0].text, said("Hello"));
    }
  },
});
