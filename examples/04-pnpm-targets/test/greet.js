import { test } from "uvu";
import * as assert from "uvu/assert";

import { greet } from "../src/greet.js";

test("greets by name", () => {
  assert.is(greet("stage"), "Hello, stage!");
});

test.run();
