/** What the routes answer, by the names that the views use. */
import type {
  ConnectionListAnswer,
  LiveSessionListAnswer,
  RatesAnswer,
  ResultListAnswer,
  SettledListAnswer,
  TaskListAnswer,
  WaitingListAnswer,
} from "../../functions/answers.ts";

export type {
  AgainAnswer,
  AllAgainAnswer,
  ConfigAnswer,
  ConnectionListAnswer,
  HealthAnswer,
  HistoryAnswer,
  LiveSessionListAnswer,
  OutageListAnswer,
  RatesAnswer,
  ResultListAnswer,
  SessionAnswer,
  SettledListAnswer,
  TaskListAnswer,
  WaitingListAnswer,
  WrongConfigAnswer,
} from "../../functions/answers.ts";

export type ShownResult = ResultListAnswer["results"][number];
export type Attempt = ShownResult["attempts"][number];
export type SettledResult = SettledListAnswer["results"][number];
export type WaitingConversation = WaitingListAnswer["conversations"][number];
export type LiveSession = LiveSessionListAnswer["sessions"][number];
export type Task = TaskListAnswer["tasks"][number];
export type Connection = ConnectionListAnswer["connections"][number];
export type Minute = RatesAnswer["minutes"][number];
