/** The scenarios without a browser, so that they are tried wherever the tests run. */
import { tellScenarios } from "./scenarios.ts";
import { startNodeVisitor } from "./support/node.ts";

tellScenarios(["relay", "proxy"], startNodeVisitor);
