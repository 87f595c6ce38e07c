// @ts-check
/**
 * The public talk page: one conversation, kept in this tab, so that a reload loses nothing. When it
 * waits for an operator its session outlives the tab, without a word of what was said.
 */

/** @typedef {{kind?: string, title?: string, dialogues?: number, raters?: number}} Source */
/** @typedef {{kind: "network"|"timeout"|"busy"|"server", detail: string, status: number, retryAt: number}} Failure */
/** @typedef {{rating: number, text?: string, suggestion?: string, key: string}} Feedback */
/** @typedef {{saved: number, savedText: string, waiting: Feedback|null, failed: {feedback: Feedback, failure: Failure}|null, draft: string, suggestion?: string, suggested?: string, done: boolean}} Rating */
/** @typedef {{text: string, logId: string, outcome: string, sources: Source[], at: number, rating: Rating}} Answer */
/** @typedef {{key: string, question: string, sessionId: string|null, askedAt: number, pending: boolean, failure: Failure|null, answer: Answer|null}} Turn */
/** @typedef {{logId: string, question: string, text: string, askedAt: number, at: number}} Told an operator's answer */
/** @typedef {{sessionId: string|null, turns: Turn[], told: Record<string, Told>, waitsSince: number, seen: Record<string, number>}} Conversation */

const MAX_LENGTH = 2000;
const MAX_SUGGESTION = 4000;
const COUNTER_FROM = 1800;
const REPLY_TIMEOUT_MS = 20_000;
const HEALTH_EVERY_MS = 30_000;
const KEYBOARD_PAUSE_MS = 700;
const LONGEST_WAIT_S = 3600;
const OPERATOR_MAY_TAKE_MS = 30 * 24 * 3600 * 1000;
const STORED = "audiobot.talk.1";
const STORED_WAITING = "audiobot.waiting.1";
const STORED_DRAFT = "audiobot.draft";
const STORED_LANGUAGE = "audiobot.language";
const INVALID = [400, 413, 415, 422];

const STRINGS = {
  ru: {
    language: "Язык",
    conversation: "Вопросы и ответы",
    welcomeTitle: "Здравствуйте!",
    welcomeText: "Спросите об уборке вашего подъезда: о цене, графике, качестве.",
    examples: ["Сколько стоит уборка подъезда?", "Как часто моют полы?", "Куда пожаловаться на плохую уборку?"],
    newConversation: "Новый разговор",
    messagePlaceholder: "Напишите вопрос…",
    hint: "Enter — отправить, Shift + Enter — новая строка",
    send: "Отправить",
    left: (n = 0) => `Осталось знаков: не больше ${n}`,
    you: "Вы:",
    typing: "AudioBot готовит ответ",
    handedOver: "Вопрос передан сотруднику",
    youAsked: (day = "", time = "") => `Вы спрашивали ${day && `${day} `}в ${time}: `,
    quotes: ["«", "»"],
    yesterday: "вчера",
    toldBy: "Ответ сотрудника",
    news: "Сотрудник ответил вам",
    sources: "Откуда ответ",
    pastDialogues: "Похожие вопросы",
    dialogues: { one: "диалог", few: "диалога", many: "диалогов" },
    raters: { one: "человек оценил", few: "человека оценили", many: "человек оценили" },
    rate: "Оцените ответ",
    star: (n = 0) => `${n} из 5`,
    rated: "Сохранено",
    thanks: "Спасибо!",
    noteLabel: "Пара слов (необязательно)",
    suggestionLabel: "Как было бы правильно?",
    ratingFailed: "Оценка не сохранилась.",
    retry: "Повторить",
    retryIn: (time = "") => `Повтор через ${time}`,
    offline: "Нет связи с сервером. Ваш вопрос не пропадёт.",
    failures: {
      network: "Не получилось связаться с сервером.",
      timeout: "Сервер не ответил за 20 секунд.",
      busy: "Слишком много запросов подряд.",
      server: "Сервер сейчас не справился.",
    },
  },
  en: {
    language: "Language",
    conversation: "Questions and answers",
    welcomeTitle: "Hello!",
    welcomeText: "Ask about the cleaning of your entrance: price, schedule, quality.",
    examples: ["How much does entrance cleaning cost?", "How often are the floors washed?", "Where can I complain about poor cleaning?"],
    newConversation: "New conversation",
    messagePlaceholder: "Type your question…",
    hint: "Enter to send, Shift + Enter for a new line",
    send: "Send",
    left: (n = 0) => `Characters left: at most ${n}`,
    you: "You:",
    typing: "AudioBot is preparing an answer",
    handedOver: "Passed on to a person",
    youAsked: (day = "", time = "") => `You asked ${/\d/.test(day) ? "on " : ""}${day && `${day} `}at ${time}: `,
    quotes: ["“", "”"],
    yesterday: "yesterday",
    toldBy: "An employee’s answer",
    news: "An employee has answered you",
    sources: "Where this comes from",
    pastDialogues: "Similar questions",
    dialogues: { one: "dialogue", other: "dialogues" },
    raters: { one: "rater", other: "raters" },
    rate: "Rate this answer",
    star: (n = 0) => `${n} of 5`,
    rated: "Saved",
    thanks: "Thank you!",
    noteLabel: "A few words (optional)",
    suggestionLabel: "What would be right?",
    ratingFailed: "The rating was not saved.",
    retry: "Retry",
    retryIn: (time = "") => `Retry in ${time}`,
    offline: "No connection to the server. Your question will not be lost.",
    failures: {
      network: "Could not reach the server.",
      timeout: "The server did not answer within 20 seconds.",
      busy: "Too many requests in a row.",
      server: "The server could not cope just now.",
    },
  },
};

// ---- state

/** Storage may be full or blocked: then only the open page remembers. @template T @param {() => T} use */
function stored(use) {
  try {
    return use();
  } catch {
    return null;
  }
}

/** @returns {Conversation} */
const newConversation = () => ({ sessionId: null, turns: [], told: {}, waitsSince: 0, seen: {} });

/** This tab's; in a new tab the session that an operator may have answered since. @returns {Conversation} */
function loadConversation() {
  const last = /** @type {any} */ (parseObject(stored(() => sessionStorage.getItem(STORED)) ?? ""));
  if (last?.turns) return { ...newConversation(), ...last };
  const waiting = /** @type {any} */ (parseObject(stored(() => localStorage.getItem(STORED_WAITING)) ?? ""));
  return Date.now() - waiting?.waitsSince < OPERATOR_MAY_TAKE_MS ? { ...newConversation(), ...waiting } : newConversation();
}

/** @returns {"ru"|"en"} */
function firstLanguage() {
  const chosen = /** @type {any} */ (stored(() => localStorage.getItem(STORED_LANGUAGE)));
  return chosen && chosen in STRINGS ? chosen : /^en\b/i.test(navigator.language) ? "en" : "ru";
}

let language = firstLanguage();
let conversation = loadConversation();
/** A request cut off by leaving is no failure: it is asked again on return. */
let leaving = false;

const t = () => STRINGS[language];
const isNew = (/** @type {Told} */ told) => conversation.seen[told.logId] !== told.at;
const isAsking = () => conversation.turns.some((turn) => turn.pending);
const isBusy = () => conversation.turns.some((turn) => turn.pending || turn.answer?.rating.waiting);

function save() {
  const { sessionId, waitsSince, seen } = conversation;
  stored(() => sessionStorage.setItem(STORED, JSON.stringify(conversation)));
  // no words: a phone is lent, and a tab is closed to be rid of them
  if (waitsSince) stored(() => localStorage.setItem(STORED_WAITING, JSON.stringify({ sessionId, waitsSince, seen })));
}

/** crypto.randomUUID is for https and localhost only; a first try is often http. */
function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const digit = (/** @type {string} */ c) => (+c ^ (crypto.getRandomValues(new Uint8Array(1))[0] & (15 >> (+c / 4)))).toString(16);
  return "10000000-1000-4000-8000-100000000000".replace(/[018]/g, digit);
}

// ---- server

/**
 * @param {string} path @param {object} body @param {string} key
 * @returns {Promise<{data: any, failure: Failure|null}>}
 */
async function post(path, body, key) {
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), REPLY_TIMEOUT_MS);
  try {
    const reply = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", "Accept-Language": language, "Idempotency-Key": key },
      body: JSON.stringify(body),
      signal: abort.signal,
    });
    const data = parseObject(await reply.text());
    showConnection(true);
    return reply.ok && data ? { data, failure: null } : { data, failure: failureOf(reply, data) };
  } catch {
    if (!abort.signal.aborted) checkHealth();
    return { data: null, failure: makeFailure(abort.signal.aborted ? "timeout" : "network") };
  } finally {
    clearTimeout(timer);
  }
}

/** @param {string} text @returns {Record<string, any>|null} */
function parseObject(text) {
  try {
    const value = JSON.parse(text);
    return value && typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}

/** @param {Failure["kind"]} kind @returns {Failure} */
const makeFailure = (kind) => ({ kind, detail: "", status: 0, retryAt: 0 });

/** @param {Response} reply @param {Record<string, any>|null} data */
function failureOf(reply, data) {
  return {
    ...makeFailure(reply.status === 429 ? "busy" : "server"),
    status: reply.status,
    detail: typeof data?.detail === "string" ? data.detail : "",
    retryAt: [429, 503, 507].includes(reply.status) ? retryTime(reply.headers.get("Retry-After")) : 0,
  };
}

/** Seconds or HTTP date; 0: at once. @param {string|null} header */
function retryTime(header) {
  const number = Number(header ?? 0);
  const seconds = isNaN(number) ? (Date.parse(String(header)) - Date.now()) / 1000 : number;
  return seconds > 0 ? Date.now() + Math.min(seconds, LONGEST_WAIT_S) * 1000 : 0;
}

async function checkHealth() {
  try {
    // a proxy says 502 for a dead server; 429 is a living one's
    const reply = await fetch("/api/health", { cache: "no-store", headers: { "Accept-Language": language }, signal: AbortSignal.timeout?.(10_000) });
    const { storage: s, services } = await reply.json();
    told = s && (/^[fr]/.test(s.mode) || !services.storage) ? s.summary : "";
    showConnection(reply.status < 500);
  } catch {
    if (!leaving) showConnection(false);
  }
}

function watchConnection() {
  let timer = 0;
  const look = () => {
    checkHealth();
    if (!document.hidden) lookForAnswers();
  };
  const follow = () => {
    clearInterval(timer);
    if (document.hidden) return;
    look();
    timer = setInterval(look, HEALTH_EVERY_MS);
  };
  document.addEventListener("visibilitychange", follow);
  window.addEventListener("online", look);
  follow();
}

// ---- asking

/** @param {string} question */
function ask(question) {
  /** @type {Turn} */
  const turn = { key: newKey(), question, sessionId: conversation.sessionId, askedAt: Date.now(), pending: true, failure: null, answer: null };
  conversation.turns.push(turn);
  deliver(turn);
  dom.log.append(mountTurn(turn));
  scrollToTurn(turn);
}

/** Key and body stay as at first, so the server knows a retry. @param {Turn} turn */
async function deliver(turn) {
  turn.pending = true;
  turn.failure = null;
  changed(turn);
  const body = { message: turn.question, session_id: turn.sessionId };
  const { data, failure } = await post("/api/voice/process", body, turn.key);
  if (leaving && failure) return;
  turn.pending = false;
  if (failure && INVALID.includes(failure.status)) return takeBack(turn, failure);
  if (failure) turn.failure = failure;
  else if (!data.response || !data.log_id) turn.failure = makeFailure("server");
  else accept(turn, data);
  const following = isNearEnd();
  changed(turn);
  if (following) scrollToTurn(turn);
}

/** @param {Turn} turn @param {Record<string, any>} data */
function accept(turn, data) {
  if (turn.sessionId === conversation.sessionId) conversation.sessionId = data.session_id;
  if (data.outcome === "handed_over") conversation.waitsSince = Date.now();
  turn.answer = {
    text: data.response,
    logId: data.log_id,
    outcome: data.outcome,
    sources: Array.isArray(data.sources) ? data.sources : [],
    at: Date.now(),
    rating: { saved: 0, savedText: "", waiting: null, failed: null, draft: "", done: false },
  };
}

/** Refused words come back, ahead of what was typed meanwhile. @param {Turn} turn @param {Failure} failure */
function takeBack(turn, failure) {
  conversation.turns = conversation.turns.filter((other) => other !== turn);
  views.get(turn)?.root.remove();
  const typed = dom.message.value.trim();
  setDraft(typed ? `${turn.question}\n${typed}` : turn.question);
  showComposerError(failure.detail || t().failures.server);
  changed();
  dom.message.focus();
}

/** @param {Turn} [turn] */
function changed(turn) {
  save();
  if (turn) views.get(turn)?.update();
  showControls();
}

// ---- rating

const ratingInFlight = new WeakSet();

/**
 * Arrow keys pass through every star on the way, so a keyboard choice waits a moment.
 * @param {Turn} turn @param {Feedback} feedback
 */
async function giveFeedback(turn, feedback, pause = 0) {
  const { rating } = /** @type {Answer} */ (turn.answer);
  rating.waiting = feedback;
  rating.failed = null;
  changed(turn);
  await new Promise((resume) => setTimeout(resume, pause));
  if (rating.waiting === feedback) sendFeedback(turn);
}

/** One request at a time for each answer, so that the last choice stays. @param {Turn} turn */
async function sendFeedback(turn) {
  if (!turn.answer || ratingInFlight.has(turn)) return;
  const { logId, rating } = turn.answer;
  ratingInFlight.add(turn);
  while (rating.waiting) {
    const feedback = rating.waiting;
    const { rating: stars, text, suggestion, key } = feedback;
    const { failure } = await post("/api/voice/feedback", { log_id: logId, rating: stars, feedback_text: text, corrected_response: suggestion }, key);
    if (failure && leaving) break;
    if (!failure) keepFeedback(rating, feedback);
    if (rating.waiting !== feedback) continue;
    rating.waiting = null;
    rating.failed = failure && { feedback, failure };
    changed(turn);
  }
  ratingInFlight.delete(turn);
}

/** @param {Rating} rating @param {Feedback} feedback */
function keepFeedback(rating, feedback) {
  const { suggestion } = feedback;
  const sentNote = Boolean(suggestion) || (feedback.text ?? rating.savedText) !== rating.savedText;
  // rated anew after the thanks: offer the words again
  rating.done = sentNote || (rating.done && rating.saved === feedback.rating);
  rating.saved = feedback.rating;
  // an operator sees to these
  if (rating.saved < 3 || suggestion) conversation.waitsSince = Date.now();
  rating.savedText = feedback.text ?? rating.savedText;
  rating.suggested = suggestion ?? rating.suggested;
}

/** @param {Turn} turn */
function sendNote(turn) {
  const { rating } = /** @type {Answer} */ (turn.answer);
  const text = rating.draft.trim();
  const words = rating.saved < 4 && rating.suggestion?.trim();
  // each one sent is one more for the operator to read
  const suggestion = words && words !== rating.suggested ? words : undefined;
  if (suggestion || text !== rating.savedText) return giveFeedback(turn, { rating: rating.saved, text, suggestion, key: newKey() });
  rating.done = true;
  changed(turn);
}

// ---- an operator's answers

let looking = false;

async function lookForAnswers() {
  const { sessionId, waitsSince } = conversation;
  if (!sessionId || !waitsSince || looking) return;
  looking = true;
  const answers = await fetchAnswers(sessionId);
  looking = false;
  // a new conversation may have begun meanwhile
  if (sessionId !== conversation.sessionId) return;
  const following = isNearEnd();
  for (const { log_id, question, answer, asked_at, answered_at } of answers.reverse()) {
    const told = { logId: log_id, question, text: answer, askedAt: Date.parse(asked_at), at: Date.parse(answered_at) };
    conversation.told[log_id] = told;
    showTold(told);
    if (following && isNew(told) && dom.log.lastElementChild.contains(toldBlocks.get(log_id))) scrollToNode(toldBlocks.get(log_id));
  }
  save();
  showControls();
}

/** Silent when it fails: the next look comes soon. @param {string} sessionId @returns {Promise<any[]>} newest first */
async function fetchAnswers(sessionId) {
  try {
    const path = `/api/voice/answers?session_id=${encodeURIComponent(sessionId)}`;
    const reply = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout?.(10_000) });
    return (await reply.json()).answers ?? [];
  } catch {
    return [];
  }
}

/** Under its question; without it, where it came among the turns. @param {Told} told */
function showTold(told) {
  const turn = conversation.turns.find(({ answer }) => answer?.logId === told.logId);
  const block = toldBlock(told, turn?.askedAt ?? told.askedAt);
  const shown = toldBlocks.get(told.logId);
  if (shown?.textContent === block.textContent) return;
  toldBlocks.set(told.logId, block);
  const later = conversation.turns.find(({ askedAt }) => askedAt > told.at);
  if (shown) shown.replaceWith(block);
  else if (turn) views.get(turn)?.root.append(block);
  else dom.log.insertBefore(block, (later && views.get(later)?.root) ?? null);
  if (isNew(told)) sight.observe(block);
}

/** An answer is new until it was in sight, be it days later in another tab. */
const sight = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      const told = Object.values(conversation.told).find(({ logId }) => toldBlocks.get(logId) === target);
      if (!isIntersecting || !told) continue;
      conversation.seen[told.logId] = told.at;
      sight.unobserve(target);
      save();
    }
    showNews();
  },
  { root: document.getElementById("scroller"), rootMargin: "-40px 0px" },
);

const firstNew = () => Object.values(conversation.told).find(isNew);

function showNews() {
  dom.news.hidden = !firstNew();
}

function goToNews() {
  const told = firstNew();
  dom.scroller.focus({ preventScroll: true });
  if (told) scrollToNode(toldBlocks.get(told.logId));
}

// ---- views

/**
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag @param {string|Record<string, unknown>} [attributes] or just the class @param {Array<Node|string>} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  if (typeof attributes === "string") attributes = { class: attributes };
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  node.append(...children);
  return node;
}

/** The page holds one drawing of each. @param {string} name */
function icon(name) {
  const svg = dom.icon.cloneNode(true);
  svg.removeAttribute("id");
  svg.firstElementChild.setAttribute("href", `#icon-${name}`);
  return svg;
}

/** Screen readers only. @param {string} words */
const unseen = (words) => element("span", "unseen", words);

/** @param {string} className @param {() => void} onClick @param {Array<Node|string>} children */
function button(className, onClick, ...children) {
  const node = element("button", { class: className, type: "button" }, ...children);
  node.addEventListener("click", onClick);
  return node;
}

/** Never markup; read aloud in its language. @param {string} words @param {"p"|"span"} [tag] */
function spoken(words, tag = "p") {
  return element(tag, { class: "words", lang: /[а-яё]/i.test(words) ? "ru" : "en", dir: "auto" }, words);
}

/** @param {number} at */
const timeOf = (at) => new Date(at).toLocaleTimeString("ru", { hour: "2-digit", minute: "2-digit" });

/** None for today. @param {number} at */
function dayOf(at) {
  const [day, today] = [new Date(at), new Date()];
  // rounded: a day may have 23 hours, or 25
  const ago = Math.round((today.setHours(0, 0, 0, 0) - new Date(at).setHours(0, 0, 0, 0)) / 86_400_000);
  if (ago < 2) return ago === 1 ? t().yesterday : "";
  const year = day.getFullYear() === today.getFullYear() ? undefined : "numeric";
  return day.toLocaleDateString(language, { day: "numeric", month: "long", year });
}

/** @param {number} at */
function clock(at) {
  return element("time", { datetime: new Date(at).toISOString() }, [dayOf(at), timeOf(at)].filter(Boolean).join(", "));
}

/** @param {number} count @param {Record<string, string>} forms */
function plural(count, forms) {
  return `${count.toLocaleString(language)} ${forms[new Intl.PluralRules(language).select(count)]}`;
}

/** @type {Map<Turn, {root: HTMLElement, update: () => void}>} */
const views = new Map();

/** By the log_id of their turn. @type {Map<string, HTMLElement>} */
const toldBlocks = new Map();

/** @param {Told} told @param {number} askedAt as the question's own clock shows it */
function toldBlock(told, askedAt) {
  const [open, close] = t().quotes;
  const lead = element("p", "told-lead", t().youAsked(dayOf(askedAt), timeOf(askedAt)), open, spoken(told.question, "span"), close);
  const by = element("p", "told-by", icon("person"), t().toldBy);
  const block = element("div", "told", lead, by, spoken(told.text), clock(told.at));
  // what was heard before is not news
  if (!isNew(told)) block.setAttribute("aria-live", "off");
  return block;
}

/** @param {Turn} turn */
function mountTurn(turn) {
  const root = element("div", "turn", questionBubble(turn));
  /** @type {HTMLElement|null} */
  let status = null;
  /** @type {ReturnType<typeof answerBlock>|null} */
  let answer = null;
  const update = () => {
    status?.remove();
    status = turn.pending ? typingIndicator() : turn.failure ? questionFailure(turn, turn.failure) : null;
    if (status) root.append(status);
    if (turn.answer && !answer) root.append((answer = answerBlock(turn, turn.answer)).root);
    else answer?.update();
  };
  views.set(turn, { root, update });
  update();
  return root;
}

/** @param {Turn} turn */
function questionBubble(turn) {
  return element("div", "turn-question", unseen(t().you), spoken(turn.question), clock(turn.askedAt));
}

function typingIndicator() {
  return element("div", "typing", element("i"), element("i"), element("i"), unseen(t().typing));
}

/** @param {Turn} turn @param {Failure} failure */
function questionFailure(turn, failure) {
  const retry = () => {
    dom.scroller.focus({ preventScroll: true });
    deliver(turn);
    scrollToTurn(turn);
  };
  return failureBlock("turn", failure, retry);
}

/** @param {string} part @param {Failure} failure @param {() => void} onRetry */
function failureBlock(part, { kind, detail, retryAt }, onRetry, lead = "") {
  const sentence = element("p", {}, icon("alert"), `${lead} ${detail || t().failures[kind]}`);
  const countdown = element("span", { class: "countdown", "aria-live": "off" });
  const retry = button(`button ${part === "turn" ? "retry" : "rating-retry"}`, onRetry, icon("retry"), t().retry);
  const block = element("div", { class: `failure ${part}-error`, "data-retry-at": retryAt }, sentence, countdown, retry);
  showWait(block);
  return block;
}

/** One may retry when the server said so, and one question at a time. @param {any} block */
function showWait({ dataset, children: [, countdown, retry] }) {
  const left = Math.ceil((dataset.retryAt - Date.now()) / 1000);
  const time = `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
  setText(countdown, left > 0 ? t().retryIn(time) : "");
  retry.disabled = left > 0 || (retry.matches(".retry") && isAsking());
}

const showWaits = () => dom.log.querySelectorAll(".failure").forEach(showWait);

/** @param {Turn} turn @param {Answer} answer */
function answerBlock(turn, answer) {
  const bubble = element("div", "bubble", unseen("AudioBot:"), spoken(answer.text), clock(answer.at));
  const root = element("div", "turn-answer", bubble);
  if (answer.outcome === "handed_over") root.append(element("p", "handed-over", icon("person"), t().handedOver));
  const sources = answer.sources.map(sourceText).filter(Boolean);
  if (answer.outcome === "asked") root.append(element("ul", "choices", ...sources.map(exampleItem)));
  else if (sources.length) root.append(sourcesList(sources));
  const rating = ratingBlock(turn, answer);
  root.append(rating.root);
  return { root, update: rating.update };
}

/** @param {Source} source */
function sourceText(source) {
  const { kind, title, dialogues, raters } = source ?? {};
  const counts = [dialogues && plural(dialogues, t().dialogues), raters && plural(raters, t().raters)].filter(Boolean).join(", ");
  return kind === "dialogues" && counts ? `${title || t().pastDialogues}: ${counts}` : title ?? "";
}

/** @param {string[]} sources */
function sourcesList(sources) {
  const list = element("ul", {}, ...sources.map((source) => element("li", {}, source)));
  return element("details", "sources", element("summary", {}, icon("arrow"), t().sources), list);
}

/** @param {Turn} turn @param {Answer} answer */
function ratingBlock(turn, { rating }) {
  const stars = [1, 2, 3, 4, 5].map((value) => starInput(turn, rating, value));
  const group = element("div", { class: "stars", role: "radiogroup", "aria-label": t().rate }, ...stars.map((star) => star.label));
  const status = element("p", { class: "rating-status", role: "status" });
  const problem = element("div", { role: "alert" });
  const note = noteForm(turn, rating);
  // five stars read out after every answer would drown it
  const root = element("div", { class: "rating", "aria-live": "off" }, element("div", "rating-line", group, status), problem, note.form);
  /** @type {Rating["failed"]} */
  let shownFailure = null;
  const update = () => {
    const shown = rating.waiting?.rating ?? rating.saved;
    for (const { label, input } of stars) {
      input.checked = Number(input.value) === shown;
      label.classList.toggle("lit", Number(input.value) <= shown);
    }
    const settled = rating.saved > 0 && !rating.failed && (rating.done || !rating.waiting);
    setText(status, settled ? (rating.done ? t().thanks : t().rated) : shown || rating.failed ? "" : t().rate);
    status.classList.toggle("rating-done", settled && rating.done);
    note.update();
    if (rating.failed === shownFailure) return;
    shownFailure = rating.failed;
    problem.replaceChildren(...(shownFailure ? [ratingFailure(turn, shownFailure)] : []));
  };
  update();
  return { root, update };
}

/** Words written anew are read anew. @param {Element} node @param {string} text */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** @param {Turn} turn @param {Rating} rating @param {number} value */
function starInput(turn, rating, value) {
  const input = element("input", { type: "radio", name: `rating-${turn.key}`, value });
  let pause = 0;
  // a click made by a key has no click count
  input.addEventListener("click", (event) => (pause = event.detail ? 0 : KEYBOARD_PAUSE_MS));
  input.addEventListener("change", () => giveFeedback(turn, { rating: value, text: rating.savedText || undefined, key: newKey() }, pause));
  const label = element("label", "star", input, icon("star"), unseen(t().star(value)));
  return { label, input };
}

/** @param {Turn} turn @param {NonNullable<Rating["failed"]>} failed */
function ratingFailure(turn, { feedback, failure }) {
  const retry = () => {
    giveFeedback(turn, feedback);
    focusRating(turn);
  };
  return failureBlock("rating", failure, retry, t().ratingFailed);
}

/** What had the focus is about to go, and must not take the reader's place with it. @param {Turn} turn */
const focusRating = (turn) => /** @type {any} */ (views.get(turn)?.root.querySelector(":checked"))?.focus();

/** @param {Turn} turn @param {Rating} rating */
function noteForm(turn, rating) {
  const named = (/** @type {string} */ label) => ({ placeholder: label, "aria-label": label, autocomplete: "off", enterkeyhint: "send" });
  const note = element("input", { class: "rating-note", value: rating.draft, maxlength: MAX_LENGTH, ...named(t().noteLabel) });
  const suggestion = element("textarea", { maxlength: MAX_SUGGESTION, ...named(t().suggestionLabel) }, rating.suggestion ?? "");
  const form = element("form", "rating-note-form", note, suggestion, element("button", "button rating-note-send", icon("send"), unseen(t().send)));
  form.addEventListener("input", () => {
    rating.draft = note.value;
    rating.suggestion = suggestion.value;
    save();
  });
  form.addEventListener("submit", () => rating.waiting || sendNote(turn));
  const update = () => {
    const height = form.offsetHeight;
    suggestion.hidden = (rating.waiting?.rating ?? rating.saved) > 3;
    form.hidden = !rating.saved || rating.done;
    if (form.contains(document.activeElement?.closest("[hidden]") ?? null)) focusRating(turn);
    if (form.offsetHeight > height) form.scrollIntoView({ block: "nearest" });
  };
  return { form, update };
}

// ---- page

/** All that has an id. @type {Record<string, any>} */
const dom = {};
for (const node of document.querySelectorAll("[id]")) dom[node.id] = node;

/** The dictionary's words; dialogues keep theirs. */
function showLanguage() {
  document.documentElement.lang = language;
  const words = /** @type {any} */ (t());
  const named = /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-text], [data-label]"));
  for (const node of named) {
    const { text, label } = node.dataset;
    if (text) node.textContent = words[text];
    if (label) node.setAttribute("aria-label", words[label]);
  }
  dom.message.placeholder = t().messagePlaceholder;
  for (const name of ["ru", "en"]) dom[`lang-${name}`].setAttribute("aria-pressed", String(name === language));
  dom.examples.replaceChildren(...t().examples.map(exampleItem));
  showComposerError("");
  showConnection();
  checkHealth();
  showCounter();
  showTurns();
}

function showTurns() {
  views.clear();
  // nothing new in it: not to be read out again
  dom.log.setAttribute("aria-live", "off");
  dom.log.replaceChildren(...conversation.turns.map(mountTurn));
  sight.disconnect();
  toldBlocks.clear();
  Object.values(conversation.told).forEach(showTold);
  showNews();
  setTimeout(() => dom.log.setAttribute("aria-live", "polite"), 100);
  showControls();
}

function showControls() {
  const empty = !conversation.turns.length && !Object.keys(conversation.told).length;
  dom.welcome.hidden = !empty;
  dom["new-conversation"].hidden = empty;
  dom["new-conversation"].disabled = isBusy();
  dom.send.disabled = isAsking();
  for (const choice of dom.scroller.querySelectorAll(".example")) choice.disabled = isAsking();
  showWaits();
}

/** @param {string} text */
function showComposerError(text) {
  setText(dom["composer-error"], text);
  dom.message.setAttribute("aria-invalid", String(Boolean(text)));
}

/** What is safe now, in the server's words. */
let told = "";
let online = true;

function showConnection(now = online) {
  online = now;
  setText(dom.connection, now ? told : t().offline);
}

function showCounter() {
  const { length } = dom.message.value;
  const near = length > COUNTER_FROM;
  dom.counter.hidden = !near;
  dom.counter.textContent = `${length} / ${MAX_LENGTH}`;
  dom.counter.classList.toggle("full", length >= MAX_LENGTH);
  // heard in steps of fifty: a number after every letter would make typing impossible
  setText(dom["counter-spoken"], near ? t().left(Math.max(0, Math.ceil((MAX_LENGTH - length) / 50) * 50)) : "");
}

/** The stylesheet stops the growth at six lines. */
function fitMessage() {
  dom.message.style.height = "auto";
  dom.message.style.height = `${dom.message.scrollHeight}px`;
}

/** @param {string} text */
function setDraft(text) {
  dom.message.value = text;
  draftChanged();
}

function draftChanged() {
  stored(() => sessionStorage.setItem(STORED_DRAFT, dom.message.value));
  showCounter();
  fitMessage();
}

/** @param {string} example */
function exampleItem(example) {
  const choose = () => {
    // the second click of a double click is no second question
    if (isAsking()) return;
    dom.scroller.focus({ preventScroll: true });
    ask(example);
  };
  return element("li", {}, button("example", choose, example, icon("arrow")));
}

function submit() {
  const question = dom.message.value.trim();
  if (isAsking()) return;
  showComposerError(question ? "" : t().messagePlaceholder);
  dom.message.focus();
  if (!question) return;
  ask(question);
  setDraft("");
}

function startAnew() {
  if (isBusy()) return;
  if (conversation.waitsSince) stored(() => localStorage.removeItem(STORED_WAITING));
  conversation = newConversation();
  save();
  showTurns();
  dom.scroller.focus({ preventScroll: true });
}

/** The composer covers no words. */
function holdEnd() {
  let atEnd = true;
  dom.scroller.addEventListener("scroll", () => (atEnd = isNearEnd()));
  new ResizeObserver(() => atEnd && scrollToEnd()).observe(dom.scroller);
}

const isNearEnd = () => dom.scroller.scrollHeight - dom.scroller.scrollTop - dom.scroller.clientHeight < 120;

/** The question stays in sight above a long answer. @param {Turn} turn */
const scrollToTurn = (turn) => scrollToNode(views.get(turn)?.root);

/** @param {HTMLElement|undefined} node */
function scrollToNode(node) {
  if (node) dom.scroller.scrollTo({ top: node.offsetTop - 12 });
}

const scrollToEnd = () => dom.scroller.scrollTo({ top: dom.scroller.scrollHeight, behavior: "instant" });

/** What was under way when the page went is sent again under its old key: twice still counts once. */
function resume() {
  for (const turn of conversation.turns) {
    if (turn.pending) deliver(turn);
    if (turn.answer?.rating.waiting) sendFeedback(turn);
  }
}

function listen() {
  document.addEventListener("submit", (event) => event.preventDefault());
  dom.composer.addEventListener("submit", submit);
  document.addEventListener("keydown", (event) => {
    const { form, type } = /** @type {any} */ (event.target);
    if (type !== "textarea" || event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.dispatchEvent(new Event("submit"));
  });
  dom.message.addEventListener("input", () => {
    showComposerError("");
    draftChanged();
  });
  for (const name of /** @type {const} */ (["ru", "en"])) {
    dom[`lang-${name}`].addEventListener("click", () => {
      language = name;
      stored(() => localStorage.setItem(STORED_LANGUAGE, name));
      showLanguage();
    });
  }
  dom["new-conversation"].addEventListener("click", startAnew);
  dom.news.addEventListener("click", goToNews);
  window.addEventListener("resize", fitMessage);
  window.addEventListener("pagehide", () => (leaving = true));
  window.addEventListener("pageshow", (event) => {
    leaving = false;
    if (event.persisted) resume();
  });
}

listen();
showLanguage();
setDraft(stored(() => sessionStorage.getItem(STORED_DRAFT)) ?? "");
scrollToEnd();
holdEnd();
setInterval(showWaits, 1000);
watchConnection();
resume();
