// The client library of Ollama.

import assert from "node:assert/strict";
import { Ollama } from "ollama";
import { z } from "zod";
import { GUARDED_URL, MODEL, PNG, PULLED, QUESTION, TOKEN, URL, WEATHER, all, run, said } from "./checks.mjs";

const client = new Ollama({ host: URL });
const model = MODEL;
const messages = [{ role: "user", content: "Hello" }];
const tools = [{ type: "function", function: { name: "get_weather", description: "The weather.", parameters: WEATHER } }];
const City = z.object({ name: z.string(), population: z.number().int() });

/** The error of `action`, which must be of this status. */
const refused = async (status, action) => {
  const error = await action().then(
    (answer) => assert.fail(`it was answered: ${JSON.stringify(answer)}`),
    (error) => error,
  );
  assert.equal(error.name, "ResponseError", error.stack);
  assert.equal(error.status_code, status, error.message);
  return error;
};

await run({
  models: async () => {
    const { models } = await client.list();
    assert(models.some(({ name }) => name.startsWith(MODEL)), JSON.stringify(models));
    const shown = await client.show({ model });
    assert(shown.capabilities.includes("completion"), JSON.stringify(shown.capabilities));
    assert.equal(shown.model_info["general.architecture"], "llama");
    const [major, minor, patch] = (await client.version()).version.split(".").map(Number);
    assert(major > 0 || minor > 6 || (minor === 6 && patch >= 4), "Visual Studio Code asks for 0.6.4");
  },

  chat: async () => {
    const answer = await client.chat({ model, messages: [{ role: "system", content: "Be brief." }, ...messages] });
    assert.equal(answer.message.content, said("Hello", 2));
    assert.equal(answer.done_reason, "stop");
    assert(answer.eval_count > 0);
  },

  chatStreamed: async () => {
    const pieces = await all(await client.chat({ model, messages, stream: true }));
    assert.equal(pieces.map(({ message }) => message.content).join(""), said("Hello"));
    assert(pieces.length > 4 && pieces.at(-1).done);
  },

  toolIsCalledAndItsResultIsTold: async () => {
    const question = [{ role: "user", content: QUESTION }];
    const first = await client.chat({ model, messages: question, tools });
    const [call] = first.message.tool_calls;
    assert.deepEqual(call.function, { ...call.function, name: "get_weather", arguments: { city: "Paris" } });
    const result = { role: "tool", content: "21 degrees", tool_name: "get_weather" };
    const second = await client.chat({ model, messages: [...question, first.message, result], tools });
    assert.equal(second.message.content, said("21 degrees", 3));
  },

  structuredOutput: async () => {
    const question = [{ role: "user", content: "Describe Paris" }];
    const answer = await client.chat({ model, messages: question, format: z.toJSONSchema(City) });
    assert.deepEqual(City.parse(JSON.parse(answer.message.content)), { name: "Paris", population: 1 });
  },

  thinkingAndImages: async () => {
    const { message } = await client.chat({ model, messages, think: true });
    assert.deepEqual([message.thinking, message.content], ["I think about: Hello", said("Hello")]);
    const shown = [{ role: "user", content: "What is this?", images: [PNG] }];
    assert.equal((await client.chat({ model, messages: shown })).message.content, said("What is this? [image/png]"));
  },

  generate: async () => {
    assert.equal((await client.generate({ model, prompt: "Hello" })).response, said("Hello"));
    const pieces = await all(await client.generate({ model, prompt: "Hello", stream: true }));
    assert.equal(pieces.map(({ response }) => response).join(""), said("Hello"));
  },

  embeddings: async () => {
    const { embeddings } = await client.embed({ model, input: ["one two", "three"] });
    assert.equal(embeddings.length, 2);
    assert((await client.embeddings({ model, prompt: "one two" })).embedding.length > 1);
  },

  whatIsLoaded: async () => {
    await client.generate({ model, prompt: "", keep_alive: "5m" });
    assert((await client.ps()).models.some(({ name }) => name.startsWith(MODEL)));
  },

  pullWithProgressCopyAndDelete: async () => {
    const lines = await all(await client.pull({ model: PULLED, stream: true }));
    assert.equal(lines.at(-1).status, "success");
    assert(lines.some(({ total, completed }) => total && total === completed), JSON.stringify(lines));
    await client.copy({ source: PULLED, destination: "mine" });
    await client.delete({ model: "mine" });
    await client.delete({ model: PULLED });
    assert(!(await client.list()).models.some(({ name }) => name === PULLED));
  },

  errorsAreOfTheRightClasses: async () => {
    const unknown = await refused(404, () => client.chat({ model: "no-such", messages }));
    assert(unknown.message.includes("no-such"), unknown.message);
    await refused(400, () => client.chat({ model, messages, options: { temperature: "hot" } }));
    await refused(401, () => new Ollama({ host: GUARDED_URL }).list());
    const friend = new Ollama({ host: GUARDED_URL, headers: { Authorization: `Bearer ${TOKEN}` } });
    assert((await friend.list()).models.length > 0);
  },
});
