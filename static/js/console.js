// Small helpers every page uses: theme switch, copy buttons, questions before an interruption, ages, search key, live updates.
// Every one of them is an addition: the pages work without this file, only less comfortably.
"use strict";

const stale_s = 20;
const poll_ms = 5000;
const throttle_ms = 2000;

// --- theme -----------------------------------------------------------------------------------------------------------
function showTheme() {
  const chosen = localStorage.getItem("theme") || "auto";
  for (const button of document.querySelectorAll("[data-theme-choice]")) {
    button.setAttribute("aria-pressed", String(button.dataset.themeChoice === chosen));
  }
}

function chooseTheme(name) {
  if (name === "auto") {
    localStorage.removeItem("theme");
    delete document.documentElement.dataset.bsTheme;
  } else {
    localStorage.setItem("theme", name);
    document.documentElement.dataset.bsTheme = name;
  }
  showTheme();
  document.dispatchEvent(new CustomEvent("theme"));
}

// --- ages: "12 s ago" keeps counting, and turns amber when it is old ---------------------------------------------------
function ageWords(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

function tickAges() {
  const now = Date.now() / 1000;
  for (const element of document.querySelectorAll("time[data-ago]")) {
    const age = now - Number(element.dataset.ago);
    const words = ageWords(age);
    if (element.textContent !== words) element.textContent = words;
    if (element.dataset.live !== undefined) {
      const old = age > stale_s;
      element.classList.toggle("old", old);
      element.closest("[data-live-region]")?.classList.toggle("stale", old);
    }
  }
}

// --- questions before something is interrupted -------------------------------------------------------------------------
function ask(form, submitter) {
  const dialog = document.createElement("dialog");
  dialog.className = "ask";
  dialog.setAttribute("aria-labelledby", "ask-title");
  const title = document.createElement("h2");
  title.id = "ask-title";
  title.textContent = form.dataset.confirmTitle || "Are you sure?";
  const text = document.createElement("p");
  text.textContent = form.dataset.confirm;
  const buttons = document.createElement("div");
  buttons.className = "btns";
  const yes = document.createElement("button");
  yes.className = "btn primary";
  yes.dataset.test = "confirm-yes";
  yes.textContent = submitter?.textContent.trim() || "Continue";
  const no = document.createElement("button");
  no.className = "btn";
  no.textContent = "Cancel";
  buttons.append(yes, no);
  dialog.append(title, text, buttons);
  document.body.append(dialog);
  yes.addEventListener("click", () => {
    form.dataset.confirmed = "yes";
    dialog.close();
    form.requestSubmit(submitter || undefined);
  });
  no.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    dialog.remove();
    submitter?.focus();
  });
  dialog.showModal();
  no.focus();
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.dataset.confirm && form.dataset.confirmed !== "yes") {
    event.preventDefault();
    event.stopImmediatePropagation();
    ask(form, event.submitter);
    return;
  }
  delete form.dataset.confirmed;
}, true);

// --- clicks and keys ---------------------------------------------------------------------------------------------------
document.addEventListener("click", async (event) => {
  const copy = event.target.closest("[data-copy]");
  if (copy) {
    const shown = document.getElementById(copy.dataset.copyFrom) || copy.previousElementSibling;
    if (!navigator.clipboard) {
      // Browsers have it on https and localhost only: elsewhere the text is selected, ready for Ctrl+C.
      getSelection().selectAllChildren(shown);
      announce("Selected: copy it with Ctrl+C");
      return;
    }
    const text = copy.dataset.copy || shown?.textContent || "";
    await navigator.clipboard.writeText(text.trim());
    const use = copy.querySelector("use");
    const before = use?.getAttribute("href");
    use?.setAttribute("href", before.replace(/#.*/, "#check"));
    announce("Copied");
    setTimeout(() => use?.setAttribute("href", before), 1200);
  }
  const theme = event.target.closest("[data-theme-choice]");
  if (theme) chooseTheme(theme.dataset.themeChoice);
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, [contenteditable]");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    document.getElementById("search")?.focus();
  }
  if (event.key === "Escape") {
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  }
});

document.addEventListener("change", (event) => {
  if (event.target.closest("form[data-auto-submit]")) event.target.form.requestSubmit();
});

function announce(text) {
  const region = document.getElementById("announce");
  if (region) region.textContent = text;
}

// --- live updates: the stream says that something changed, the fragments fetch themselves --------------------------------
// While the tab is hidden the stream is closed: a browser allows six connections per host and every tab would hold one.
const live = { source: null, poll: 0, pending: 0, last: 0 };

function refresh() {
  const wait = Math.max(0, live.last + throttle_ms - Date.now());
  if (live.pending) return;
  live.pending = setTimeout(() => {
    live.pending = 0;
    live.last = Date.now();
    document.body.dispatchEvent(new CustomEvent("live"));
  }, wait);
}

function showMode(mode) {
  const dot = document.getElementById("live-mode");
  if (!dot) return;
  dot.dataset.mode = mode;
  dot.textContent = { stream: "Live", poll: "Refreshing every 5 s", lost: "Connection to the console lost" }[mode];
}

function pollInstead() {
  if (live.poll) return;
  live.poll = setInterval(refresh, poll_ms);
}

function connect() {
  const url = document.body.dataset.live;
  if (!url || document.hidden || live.source) return;
  pollInstead();
  const source = new EventSource(url);
  live.source = source;
  source.addEventListener("open", () => {
    clearInterval(live.poll);
    live.poll = 0;
    showMode("stream");
  });
  source.addEventListener("changed", refresh);
  source.addEventListener("error", () => {
    pollInstead();
    showMode("poll");
    if (source.readyState === EventSource.CLOSED) {
      live.source = null;
      setTimeout(connect, 4 * poll_ms);
    }
  });
}

function disconnect() {
  live.source?.close();
  live.source = null;
  clearInterval(live.poll);
  live.poll = 0;
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    disconnect();
  } else {
    connect();
    refresh();
  }
});
window.addEventListener("pagehide", disconnect);
document.addEventListener("htmx:sendError", () => showMode("lost"));
document.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.successful && document.getElementById("live-mode")?.dataset.mode === "lost") {
    showMode(live.poll ? "poll" : "stream");
  }
});
document.addEventListener("htmx:afterSettle", tickAges);
// A session that ended answers a fragment with the login page: go there instead of drawing it into the fragment.
document.addEventListener("htmx:beforeSwap", (event) => {
  if (event.detail.xhr.getResponseHeader("X-Login-Required")) {
    event.detail.shouldSwap = false;
    location.reload();
  }
});

// --- the tunnel form fills itself in: what a person does until the answer comes stays -----------------------------------
const filled = { asked: new Map(), meanwhile: [] };

function valuesBelow(part) {
  const fields = part.querySelectorAll("input[id]:not([type=hidden]), select[id], textarea[id]");
  return new Map([...fields].map((field) => [field.id, field.matches("[type=checkbox], [type=radio]") ? field.checked : field.value]));
}

document.addEventListener("htmx:beforeRequest", (event) => {
  if (event.detail.elt.id === "tunnel-fields") filled.asked = valuesBelow(event.detail.elt);
});
document.addEventListener("htmx:beforeSwap", (event) => {
  if (event.detail.requestConfig.elt.id !== "tunnel-fields") return;
  filled.meanwhile = [...valuesBelow(event.detail.target)].filter(([id, value]) => filled.asked.get(id) !== value);
});
document.addEventListener("htmx:afterSettle", () => {
  for (const [id, value] of filled.meanwhile.splice(0)) {
    const field = document.getElementById(id);
    if (!field) continue;
    field[typeof value === "boolean" ? "checked" : "value"] = value;
    // What follows from it was not asked for yet.
    field.dispatchEvent(new Event("change", { bubbles: true }));
  }
});

showTheme();
tickAges();
setInterval(tickAges, 1000);
connect();
