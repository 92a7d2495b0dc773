// The AI SDK of Vercel.

import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, embedMany, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { GUARDED_URL, MODEL, PNG, QUESTION, URL, all, raises, run, said } from "./checks.mjs";

const hive = createOpenAICompatible({
  name: "hive",
  baseURL: `${URL}/v1`,
  supportsStructuredOutputs: true,
  includeUsage: true,
});
const model = hive(MODEL);
const tools = {
  get_weather: tool({
    description: "The weather in a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => `21 degrees in ${city}`,
  }),
};
const City = z.object({ name: z.string(), population: z.number().int() });

await run({
  chat: async () => {
    const { text, finishReason, usage } = await generateText({ model, system: "Be brief.", prompt: "Hello" });
    assert.deepEqual([text, finishReason], [said("Hello", 2), "stop"]);
    assert(usage.totalTokens > 0);
  },

  chatStreamed: async () => {
    const result = streamText({ model, prompt: "Hello" });
    const pieces = await all(result.textStream);
    assert.equal(pieces.join(""), said("Hello"));
    assert(pieces.length > 3);
    assert((await result.usage).outputTokens > 0);
  },

  toolIsCalledAndItsResultIsTold: async () => {
    const asked = { model, tools, prompt: QUESTION, stopWhen: stepCountIs(3) };
    const { text, steps } = await generateText(asked);
    assert.deepEqual(steps[0].toolCalls.map(({ input }) => input), [{ city: "Paris" }]);
    assert.equal(text, said("21 degrees in Paris", 3));
    assert.equal(await streamText(asked).text.then((text) => text), said("21 degrees in Paris", 3));
  },

  structuredOutput: async () => {
    const output = Output.object({ schema: City });
    const answer = await generateText({ model, prompt: "Describe Paris", output });
    assert.deepEqual(answer.output, { name: "Paris", population: 1 });
  },

  reasoningAndImages: async () => {
    const providerOptions = { hive: { reasoningEffort: "high" } };
    const { reasoningText, text } = await generateText({ model, prompt: "Hello", providerOptions });
    assert.deepEqual([reasoningText, text], ["I think about: Hello", said("Hello")]);
    const content = [
      { type: "text", text: "What is this?" },
      { type: "image", image: PNG, mediaType: "image/png" },
    ];
    const shown = await generateText({ model, messages: [{ role: "user", content }] });
    assert.equal(shown.text, said("What is this? [image/png]"));
  },

  embeddings: async () => {
    const { embeddings } = await embedMany({ model: hive.textEmbeddingModel(MODEL), values: ["one two", "three"] });
    assert.equal(embeddings.length, 2);
  },

  completions: async () => {
    const { text } = await generateText({ model: hive.completionModel(MODEL), prompt: "Once" });
    assert(text.startsWith(" and then"), text);
  },

  errorsAreOfTheRightClasses: async () => {
    const ask = (model) => () => generateText({ model, prompt: "Hello", maxRetries: 0 });
    const unknown = await raises(APICallError, ask(hive("no-such")));
    assert.equal(unknown.statusCode, 404);
    const stranger = createOpenAICompatible({ name: "hive", baseURL: `${GUARDED_URL}/v1`, apiKey: "wrong" });
    assert.equal((await raises(APICallError, ask(stranger(MODEL)))).statusCode, 401);
  },
});
