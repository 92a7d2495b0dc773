// What the scripts share, as python/checks.py does: where the hive is, what its model says, and checks that fail
// loudly.

import assert from "node:assert/strict";

const from = (name) => {
  const value = process.env[name];
  assert(value, `${name} is not set`);
  return value;
};

export const URL = from("RBEE_URL");
export const GUARDED_URL = from("RBEE_GUARDED_URL");
export const TOKEN = from("RBEE_TOKEN");
export const MODEL = from("RBEE_MODEL");
/** A model of the library that the tests stand in for. */
export const PULLED = from("RBEE_PULLED_MODEL");
/** A picture of one pixel. */
export const PNG =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
export const QUESTION = "What is the weather in Paris?";
export const WEATHER = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};

/** What the model answers to the last of so many messages. */
export const said = (text, messages = 1) => `${messages} messages, the last: ${text}`;

/** The error of `action`, which must be of exactly this class. */
export const raises = async (kind, action) => {
  let result;
  try {
    result = await action();
  } catch (error) {
    assert.equal(error.constructor, kind, error.stack);
    return error;
  }
  assert.fail(`${kind.name} was expected, and the answer was ${JSON.stringify(result)}`);
};

/** All items of a stream. */
export const all = async (stream) => {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
};

/** Runs all checks, prints a line for each, and fails if one has failed. */
export const run = async (checks) => {
  const failed = [];
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check();
      console.log(`ok ${name}`);
    } catch (error) {
      failed.push(name);
      console.log(`FAILED ${name}\n${error?.stack ?? error}`);
    }
  }
  if (failed.length > 0) {
    console.error(`${failed.length} checks failed: ${failed.join(", ")}`);
    process.exit(1);
  }
};
