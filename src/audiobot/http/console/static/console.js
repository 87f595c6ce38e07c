// @ts-check
/** What the console's pages do beyond links and forms: one card open at a time, keys, drafts, times. */

const DRAFT = "audiobot.console.draft.";
const CAN_HOVER = matchMedia("(hover: hover)");

/** @param {string} selector @param {ParentNode} [within] @returns {HTMLElement[]} */
const all = (selector, within = document) => [...within.querySelectorAll(selector)].filter((node) => node instanceof HTMLElement);
/** @param {unknown} node @param {string} selector @returns {HTMLElement|null} */
const around = (node, selector) => (node instanceof Element ? node.closest(selector) : null);

// ---- cards

/** @param {Element} opener */
const bodyOf = (opener) => document.getElementById(opener.getAttribute("aria-controls") ?? "");
const opened = () => all('.opener[aria-expanded="true"]');

/** @param {HTMLElement} opener */
function shut(opener) {
  bodyOf(opener)?.replaceChildren();
  opener.setAttribute("aria-expanded", "false");
  opener.closest(".card")?.classList.remove("open");
}

/** @param {HTMLElement} body what was opened has just come */
function unfold(body) {
  const opener = /** @type {HTMLElement} */ (document.querySelector(`[aria-controls="${body.id}"]`));
  opened().filter((other) => other !== opener).forEach(shut);
  opener.setAttribute("aria-expanded", "true");
  opener.closest(".card")?.classList.add("open");
  const form = body.querySelector(".editor");
  if (!(form instanceof HTMLFormElement)) return;
  restore(form);
  // A phone's keyboard would hide the questions that one has yet to read.
  if (CAN_HOVER.matches) form.querySelector("textarea")?.focus({ preventScroll: true });
  opener.closest(".card")?.scrollIntoView({ block: "nearest" });
}

/** @param {number} step */
function move(step) {
  const openers = all(".opener");
  const here = openers.findIndex((opener) => opener.closest(".card")?.contains(document.activeElement));
  const next = openers[here < 0 ? (step > 0 ? 0 : openers.length - 1) : Math.min(Math.max(here + step, 0), openers.length - 1)];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

// ---- what is typed stays in this tab until it is saved

/** @param {HTMLFormElement} form */
const texts = (form) => [...form.querySelectorAll("textarea")];

/** What the texts were written over: whose answer, in which version, to which turns.
 * @param {HTMLFormElement} form */
const about = (form) => [...form.querySelectorAll("input")];

/** @param {HTMLFormElement} form */
function remember(form) {
  const draft = { typed: texts(form).map((text) => text.value), over: about(form).map(({ name, value }) => [name, value]) };
  sessionStorage.setItem(DRAFT + form.dataset.key, JSON.stringify(draft));
}

/** @param {HTMLFormElement} form */
function restore(form) {
  const kept = sessionStorage.getItem(DRAFT + form.dataset.key);
  if (!kept) return;
  const { typed, over } = JSON.parse(kept);
  texts(form).forEach((text, number) => (text.value = typed[number] ?? text.value));
  // Where a colleague answered since, the server has to hear what the draft knew of. A group has no answer yet.
  if (form.querySelector('[name="kind"]:not([value="group"])')) {
    about(form).forEach((field) => field.remove());
    form.prepend(...over.map((/** @type {string[]} */ [name, value]) => Object.assign(document.createElement("input"), { type: "hidden", name, value })));
  }
  form.dispatchEvent(new CustomEvent("drafted", { bubbles: true }));
}

// ---- messages

const notice = /** @type {HTMLElement} */ (document.getElementById("notice"));

/** @param {CustomEvent} event */
function tellNoConnection(event) {
  if (event.detail.elt.matches?.(".watch")) return; // it looks again soon
  const words = document.createElement("p");
  words.textContent = document.body.dataset.noConnection ?? "";
  const message = document.createElement("div");
  message.className = "message bad";
  message.setAttribute("role", "alert");
  message.append(words);
  notice.replaceChildren(message);
}

// ---- times, in the reader's own

/** @param {ParentNode} within */
function localise(within) {
  for (const time of within.querySelectorAll("time[datetime]")) {
    const at = new Date(time.getAttribute("datetime") ?? "");
    const two = (/** @type {number} */ part) => String(part).padStart(2, "0");
    time.textContent = `${two(at.getDate())}.${two(at.getMonth() + 1)}.${at.getFullYear()} ${two(at.getHours())}:${two(at.getMinutes())}`;
  }
}

// ---- what happens

/** @type {HTMLElement|null} the opener to go on with when the card at hand is done */
let next = null;

/** @param {string} name @param {(event: CustomEvent) => void} handler */
const on = (name, handler) => document.body.addEventListener(name, (event) => handler(/** @type {CustomEvent} */ (event)));

on("htmx:beforeRequest", (event) => {
  const { elt } = event.detail;
  if (elt.matches?.('.opener[aria-expanded="true"]')) {
    event.preventDefault();
    shut(elt);
  }
  const card = around(elt, ".card");
  if (!card) return;
  const neighbour = card.nextElementSibling ?? card.previousElementSibling;
  next = neighbour?.querySelector(".opener") ?? null;
});

on("htmx:beforeSwap", (event) => {
  const { isError, requestConfig: { verb, path, parameters } } = event.detail;
  if (isError || verb !== "post") return;
  // What one does to one's own answer is no news.
  all(".watch").filter(({ dataset: { answer = "" } }) => path.includes(answer) || parameters.correction_id === answer).forEach((watch) => watch.remove());
});

on("htmx:afterRequest", (event) => {
  const { successful, requestConfig: { elt }, xhr } = event.detail;
  if (elt.matches(".watch") && xhr.status === 286) elt.remove();
  if (!successful || elt.matches(".preview, .watch")) return;
  const form = around(elt, ".editor");
  if (form) sessionStorage.removeItem(DRAFT + form.dataset.key);
  if (document.body.contains(elt)) return;
  // What was pressed is gone with its card or message: a keyboard goes on from here.
  const onward = form && next && document.body.contains(next) ? next : document.getElementById("main");
  onward?.focus({ preventScroll: onward !== next });
});

on("htmx:afterSettle", (event) => {
  if (event.detail.target.matches(".body")) unfold(event.detail.target);
});
on("htmx:load", (event) => {
  const { elt } = event.detail;
  localise(elt);
  // Saved anew, an answer is looked after as it is now.
  if (elt.matches(".watch")) all(`.watch[data-answer="${elt.dataset.answer}"]`).filter((older) => older !== elt).forEach((older) => older.remove());
});
on("htmx:oobAfterSwap", (event) => localise(event.detail.target));
on("htmx:sendError", tellNoConnection);
on("htmx:timeout", tellNoConnection);
// Signed in anew in another tab: the page goes on with the new session's proof.
on("proof", (event) => {
  const { value } = event.detail;
  document.body.setAttribute("hx-headers", JSON.stringify({ "X-CSRF-Token": value }));
  document.querySelectorAll('input[name="proof"]').forEach((field) => field.setAttribute("value", value));
});

document.addEventListener("input", (event) => {
  const form = around(event.target, ".editor");
  if (form instanceof HTMLFormElement) remember(form);
});

document.addEventListener("click", (event) => {
  if (around(event.target, ".hide")) notice.replaceChildren();
  if (around(event.target, ".close")) escape(event.target);
});

/** @param {EventTarget|null} from */
function escape(from) {
  const card = around(from, ".card.open") ?? document.querySelector(".card.open");
  const opener = card?.querySelector(".opener");
  if (!(opener instanceof HTMLElement)) return notice.replaceChildren();
  shut(opener);
  opener.focus();
}

document.addEventListener("keydown", (event) => {
  const form = around(event.target, ".editor");
  if (event.key === "Escape") return escape(event.target);
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && form instanceof HTMLFormElement) {
    event.preventDefault();
    return form.requestSubmit();
  }
  if (event.ctrlKey || event.metaKey || event.altKey || around(event.target, "input, textarea")) return;
  // By the key's place: a Russian keyboard has other letters there.
  const onCard = around(event.target, ".opener");
  const step = event.code === "KeyJ" || (onCard && event.key === "ArrowDown") ? 1 : event.code === "KeyK" || (onCard && event.key === "ArrowUp") ? -1 : 0;
  if (!step) return;
  event.preventDefault();
  move(step);
});

localise(document);
