// Shapes of the dashboard's own that its checker has no other source for. Nothing of this is served.
import type { Problem } from "./api.js";
import type { rowsOf } from "./components.js";
import type { layoutOf } from "./grid.js";
import type { Columns, Parts } from "./parts.js";
import type * as store from "./store.js";
import type * as stream from "./stream.js";
import type { AccessRule, Approval, AuditEvent, Check, CommandTemplate, EnrolmentToken, Execution, Host, Me, NewEnrolmentToken, NewRule, NewToken, Output, OutputGroupAnswer, Passkey, PendingHost, Projection, PublicKey, Readiness, RunCommand, SignedCheckpoint, Stop, Task, Token, User, paths } from "./types.js";
export type * from "./types.js";

export type { Columns, Parts, Problem };

// The API, by the paths of its document: `/hosts/${string}` is "/api/v1/hosts/{hostname}".

type Segment<S extends string> = string extends S ? "{}" : `${number}` extends S ? "{}" : S extends `{${string}}` ? "{}" : S;
type Shape<P extends string> = P extends `${infer First}/${infer Rest}` ? `${Segment<First>}/${Shape<Rest>}` : Segment<P>;
type Methods = { [P in keyof paths as Shape<P>]: paths[P] };
type Method = "get" | "post" | "patch" | "delete";

type Operation<M extends Method, P extends string> = `/api/v1${Shape<P>}` extends infer S ? (S extends keyof Methods ? Methods[S][M] : never) : never;
type Content<T> = T extends { content: { "application/json": infer C } } ? C : null;
type Good<R> = R extends Record<200, infer A> | Record<201, infer A> | Record<202, infer A> | Record<204, infer A> ? Content<A> : never;
type AnswerOf<O> = O extends { responses: infer R } ? Good<R> : never;
type QueryOf<O> = O extends { parameters: { query?: infer Q } } ? { [N in keyof Q]?: Q[N] | null } : never;
type BodyOf<O> = O extends { requestBody?: infer B } ? Content<Exclude<B, undefined>> | undefined : never;

export type Answer<M extends Method, P extends string> = string extends P ? unknown : AnswerOf<Operation<M, P>>;
/** What is said to a path: nothing can be to one that the API does not have. One that is only known when it is asked may be any. */
type Said<M extends Method, P extends string, Right extends unknown[]> = string extends P ? [unknown?, AbortSignal?] : [Operation<M, P>] extends [never] ? [never] : Right;
type Asked<P extends string> = Said<"get", P, [query?: QueryOf<Operation<"get", P>>, earlier?: AbortSignal]>;
type Sent<M extends Method, P extends string> = Said<M, P, [body?: BodyOf<Operation<M, P>>]>;

export interface Api {
  get<P extends string>(path: P, ...more: Asked<P>): Promise<Answer<"get", P>>;
  look<P extends string>(path: P): Promise<Answer<"get", P>>;
  post<P extends string>(path: P, ...more: Sent<"post", P>): Promise<Answer<"post", P>>;
  patch<P extends string>(path: P, ...more: Sent<"patch", P>): Promise<Answer<"patch", P>>;
  remove<P extends string>(path: P, ...more: Sent<"delete", P>): Promise<Answer<"delete", P>>;
  readiness(): Promise<Required<Readiness>>;
}

export interface CallHow {
  query?: Given;
  signal?: AbortSignal;
  asksToSignIn?: boolean;
}

/** The same, of any path. */
export type Calls = { [M in "get" | "look" | "post" | "patch" | "remove"]: (path: string, sent?: {}, earlier?: AbortSignal) => Promise<any> } & Pick<Api, "readiness">;

/** Asks the user to sign in, for what was `refused`; resolves when that is done. */
export type Ask = (refused: Problem | null) => Promise<unknown>;

/** What is wrong, as of RFC 9457. */
export interface ProblemBody {
  [name: string]: unknown;
  title?: string;
  detail?: string;
  code?: string;
  errors?: { field?: string; message?: string }[];
  request_id?: string | null;
}

// Pages.

/** What the address says to a page, by name. */
export type Params = Record<string, string | undefined>;

/** What a page is given beside its own part of the document. */
export interface Context {
  api: Api;
  store: typeof store;
  stream: Live;
  signal: AbortSignal;
  user: Me;
  navigate(path: string, how?: { replace?: boolean }): unknown;
  title(words: string): void;
  signedIn(me: Me, next?: string): unknown;
}

/** What the page is given where one signs in; `refused`: why one does so again. */
export interface SignInContext extends Omit<Context, "user"> {
  user: Me | null;
  refused?: Problem | null;
}

export type Live = Pick<typeof stream, "createTail" | "bytesOf" | "follow" | "watch" | "take" | "now" | "showMoment" | "state" | "liveness">;

/** The page that is shown. */
export interface Opened {
  name: string;
  path: string;
  search: string;
  at: string | null;
  controller: AbortController;
  update?(params: Params): unknown;
}

/** A page's module. Its `mount` may want more of what it is given: that it belongs to its template is for `main.js` to know. */
export interface Page {
  mount(part: Parts[keyof Parts], params: Params, context: Context): { update?(params: Params): unknown } | void;
}

// Rows.

/** The rows of a table of the store; those that the stream brings of a task lack what only its own page shows. */
export interface Tables {
  hosts: Host;
  tasks: Omit<Task, "retries"> & Partial<Pick<Task, "retries">>;
  executions: Execution;
  events: AuditEvent;
  projections: Projection;
  stop: Stop;
}

export type Table = keyof Tables;
export type Id = string | number;

/** A row, and at which positions it and a host's heartbeat were such. */
export interface Aged<Row> {
  age: [number, number];
  row: Row;
}

/** What commands print: `offset` counts the bytes of that stream of the command. */
export interface Piece {
  task_id: string;
  hostname: string;
  stream: "stdout" | "stderr";
  offset: number;
  data: string;
  encoding?: "base64" | "utf-8";
}

export interface Ping {
  now: string;
  build: string;
  heads: Heads;
  lag: { seconds: number; events: number };
  offsetMs: number;
}

/** Times in ms, 0: never. */
export interface StreamState {
  openedAt: number;
  lastFrameAt: number;
  retryAt: number;
  isRefused: boolean;
  ping: Ping | null;
}

export interface Follower {
  topics: string[];
  signal: AbortSignal;
  onReset?(): unknown;
  onPiece?(piece: Piece): unknown;
  onEnd?(hostname: string): unknown;
  onRefused?(): unknown;
}

// What pages are made of.

export type TaskRow = Tables["tasks"];

/** How a page is begun: what it gives is told of each other address. */
export type Mount<K extends keyof Parts> = (part: Parts[K], params: Params, context: Context) => { update(params: Params): unknown } | void;

/** What an address says more; null: nothing of that name. */
export type Search = Record<string, string | number | boolean | null | undefined>;

/** A page of a list, as the API answers it. */
export interface Listing<R> {
  items: R[];
  next_cursor?: string | null;
  total?: number | null;
  as_of: string;
}

/** What a list can be asked for. */
export type QueryFor<P extends string> = QueryOf<Operation<"get", P>>;

type Listed = "tasks" | "events";
/** Cells as one page alone has them. */
export type Own<R> = Record<string, (row: R, cell: HTMLTableCellElement, before?: R) => unknown>;
/** What is said where there is nothing, and where one can go then. */
export type Nothing = [words: string, href?: string, action?: string];

/** A list of rows, newest first. */
export interface Newest<F extends Listed> {
  from: F;
  tables?: (keyof Tables)[];
  head: "task-head" | "event-head";
  shows: Shows<Tables[F]>;
  isWanted(row: Tables[F]): boolean;
  none: Nothing | (() => Nothing);
  query(): QueryFor<`/${F}`>;
  limit?: number;
  most?: number;
  onPage?(page: Listing<Tables[F]>): unknown;
}

/** A list of tasks that are under way, each as a card. */
export interface Cards {
  tables: (keyof Tables)[];
  find(): TaskRow[];
  show(card: Parts["running-card"], task: TaskRow): void;
  onTurn(): void;
}

/** What a command prints while it runs, as it is shown. */
export interface LiveCard {
  part?: Parts["live-card"];
  isNew?: boolean;
  streams: { [name in Output["stream"]]?: ReturnType<Tail> & { tail: Tail; lines: number; read: number; element?: HTMLElement; news?: HTMLButtonElement; drawn?: string } };
}
type Tail = ReturnType<typeof stream.createTail>;

/** Equal outputs, decoded once they are shown: `names` is empty before. */
export interface OutputGroup extends OutputGroupAnswer {
  names: string;
  bytes: { [name in Output["stream"]]?: number };
  binary: { [name in Output["stream"]]?: boolean };
}

/** A stream of a result that is read range by range. */
export interface Reading {
  name: Output["stream"];
  fileName: string;
  read(offset: number, limit: number): Promise<Output>;
  bytesOf: typeof stream.bytesOf;
  hrefOf(line: number): string;
  opened(line: number): void;
}

/** One of the numbers below a task's bar, and the states that it leads to. */
export interface Told {
  key: string;
  words: string | false | null;
  states?: string;
}

/** Positions in both logs. */
export interface Heads {
  event: number;
  heartbeat: number;
}
export type Sample = Heads & { at: number };
export type Signed = SignedCheckpoint | { none: string };

/** What the parts of a task's page know of it. */
export interface TaskView {
  taskId: string;
  url: `/tasks/${string}`;
  params(): Params;
  address(more: Search): string;
  go(more: Search): void;
  went(): void;
  current(): TaskRow | undefined;
  executions(): Execution[];
  rowOf(hostname: string): Execution | undefined;
  basic(): Set<string>;
  isRead(): boolean;
  now(): number | null;
  isExpired(task: TaskRow): boolean;
}

// What is drawn.

export type Tags = HTMLElementTagNameMap;
export type Given = Record<string, unknown>;

/** A tag, or what makes an element of an item. */
export type Maker<T> = keyof Tags | ((item: T) => HTMLElement);
export type Made<M> = M extends keyof Tags ? Tags[M] : M extends (item: never) => infer E ? E : never;

export type Input = HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement;

export type Time = string | number | Date;
export type Counts = Record<string, number>;
export type HasState = { state: string };
export type OfHost = HasState & { hostname: string };

/** How a state looks. */
export interface Look {
  role: string;
  shape: string;
  answer?: string;
}

export interface Drawn {
  fill?: string;
  line?: string;
  width?: number;
  dash?: number[];
}

/** `states.json`. */
export interface States extends Record<Kind, Record<string, Look>> {
  roles: string[];
  answers: string[];
  shapes: Record<string, Drawn[]>;
}

export type Kind = Exclude<keyof typeof import("../states.json"), "roles" | "answers" | "shapes">;

/** What terminals change of text. */
export type Style = Record<"colour" | "bold" | "dim" | "underline", string | null>;

/** A piece of text, and how it is shown. */
export interface Styled {
  text: string;
  classes: string[];
}

/** What somebody is asked about before it is run. */
export type Confirmed = { reason?: string | null; command?: string | null; user?: string | null };

/** Where something is in what a host printed. */
export interface Match {
  line: number;
  from: number;
  to: number;
}

/** A hostname, and where its number is. */
export type Folded = Record<"whole" | "before" | "digits" | "after", string>;

/** How long each step took, in ms. */
export type Delays = Record<"queued" | "delivered" | "ran" | "answered", number | null>;

/** How long a host was in a state. */
export interface Span {
  state: string | null;
  ms: number;
}

/** A moment that is shown; `first`: the oldest event, where all came later. */
export interface Moment {
  at: string;
  position?: number;
  time?: string | null;
  first?: AuditEvent;
}

/** The hosts of a group, as tiles. */
export interface Tiles {
  name: string;
  hosts: Host[];
}

export type Layout = ReturnType<typeof layoutOf>;

export interface TilesActs {
  open(host: Host): unknown;
  toggle(host: Host): unknown;
  isPicked(host: Host): boolean;
  wordsOf(host: Host, group: string): string;
  signal: AbortSignal;
}

/** Where the search leads to. */
export type Found = Record<"path" | "words" | "kind", string>;

export interface Failed {
  name: string;
  error: unknown;
}

/** The rows of a window: `to` is one after the last. */
export type Held = Record<"from" | "to", number>;
export type HeldPart = { place?: number; gap?: number };

export type Test = (host: Host) => boolean;

export interface Term {
  term: string;
  field: string;
  isNegated: boolean;
  values: string[];
  test: Test;
}

/** A query's terms, or its first error: the term, where it stands, the key of a reason. */
export type Parsed = { terms: Term[]; error: null } | { terms: null; error: WrongTerm };
export type WrongTerm = { term: string; at: number; reason: string; given: Given };

/** What columns show of an item: a text, or nothing where the cell has been filled. */
export type Shows<T, Names extends string = string> = Record<Names, (item: T, cell: HTMLTableCellElement) => unknown>;

export type Rows<T> = ReturnType<typeof rowsOf<T>>;

/** A field of a form: what is not named here are properties of its input. */
export interface Field extends Partial<Omit<HTMLInputElement, "type" | "name" | "value">> {
  name: string;
  label?: string | Node;
  type?: string;
  value?: string | null;
  choices?: readonly string[];
  offers?: readonly string[];
}

/** What is asked in a dialog; `T`: what its fields say. */
export interface Question<T> {
  words?: string;
  given?: Given;
  title?: string;
  body?: string | Node | (string | Node)[];
  fields?: Field[];
  yes?: string;
  no?: string;
  check?(yes: HTMLButtonElement, said: T): unknown;
  submit?: ((said: T, waits: HTMLElement) => unknown) | null;
}

/** What can be done on the Access page to a row, or to make one: `access.json` says it. */
export interface Action {
  name?: string;
  needs?: string;
  method?: "post" | "patch" | "remove";
  to?: string;
  kind?: string;
  fields?: Record<string, string | undefined>;
  body?: Given;
  when?: Given;
  unless?: Given;
  lacks?: keyof RunRequest;
  prefills?: boolean;
  shows?: boolean;
  secret?: "command" | "token";
  types?: boolean;
}

/** What was asked for, as an approval has it, and the event of a task's acceptance: of secrets the names. */
export type RunRequest = Omit<RunCommand, "command" | "secrets"> & { command: string; secrets?: string[] };

/** What is answered to what is done there. */
export type AccessAnswer = Partial<NewRule & NewToken & NewEnrolmentToken> | null | undefined;

/** A row of any section of the Access page: its columns say what it is one of. */
export type AccessRow = Omit<Approval, "request"> & { request: RunRequest } & AccessRule & CommandTemplate & EnrolmentToken & Passkey & PendingHost & PublicKey & Token & User;

/** A section of the Access page: the same. */
export interface Section {
  name: string;
  path: string;
  needs?: string[];
  query?: Record<string, string>;
  id?: keyof AccessRow;
  columns?: string[] | null;
  actions?: Action[] | null;
  create?: Action;
  tells?: { needs: string };
  isLive?: boolean;
  isCards?: boolean;
  isAsked?: boolean;
  kind?: Kind;
}
