// What the browser does alone. The talks are kept here and nowhere else, each under its own key, so that two windows
// of the page do not overwrite each other's. WORDS, LABELS and PATHS stand before this.
const miniglm = (() => {
  const PREFIX = "miniglm-talk-", CURRENT = "miniglm-current", DRAFT = "miniglm-draft";
  const word = key => WORDS[key][(navigator.language || "zh").startsWith("zh") ? 0 : 1];
  const escaped = text => { const box = document.createElement("p"); box.textContent = text; return box.innerHTML.replaceAll('"', "&quot;") };
  let current = sessionStorage.getItem(CURRENT);  // survives a reload and differs from window to window
  let chosen = null;  // in the list
  let restored = false;  // whether what was typed before is in the box again

  function point(id) {
    current = id;
    id ? sessionStorage.setItem(CURRENT, id) : sessionStorage.removeItem(CURRENT);
  }
  function read(id) {
    try { return JSON.parse(localStorage.getItem(id)) } catch { return null }
  }
  function write(id, talk) {
    try { localStorage.setItem(id, JSON.stringify(talk)) } catch { alert(word("full")) }
  }
  function all() {
    return Object.keys(localStorage).filter(id => id.startsWith(PREFIX)).map(id => ({id, ...read(id)}))
      .filter(talk => talk.messages?.length).sort((one, two) => two.changed - one.changed);
  }
  const named = talk => talk.name || talk.messages.find(each => each.role === "user")?.content.slice(0, 30) || "…";
  function put(messages, name) {
    if (!current) point(PREFIX + Date.now() + Math.random().toString(36).slice(2));
    write(current, {name: name ?? read(current)?.name ?? "", messages, changed: Date.now()});
  }

  // What the page's events call: each gives what is then shown.
  const list = () => "<ul>" + all().map(talk => `<li><button type="button" data-talk="${escaped(talk.id)}"`
    + `${talk.id === current ? ' aria-current="true"' : ""}>${escaped(named(talk))}</button></li>`).join("") + "</ul>";
  const busy = () => document.querySelector("#question [data-testid=stop-button]");  // an answer is being written
  const shown = () => [busy() ? null : read(current)?.messages ?? [], read(current)?.name ?? "", list()];
  return {
    keep(messages) {
      if (messages?.length) put(messages);
      else if (current) { localStorage.removeItem(current); point(null) }
      return list();
    },
    choose(id) { chosen = id },
    // Nobody leaves a talk while it is answered: the answer would be kept in another one's place.
    open() { if (!busy()) point(chosen); return shown() },
    begin() { if (!busy()) point(null); return shown() },
    forget() { if (current && !busy()) localStorage.removeItem(current); return this.begin() },
    rename(name) {
      const talk = read(current);
      if (talk && talk.name !== name.trim()) put(talk.messages, name.trim());
      return list();
    },
    readBack(talks) {
      const before = current;
      for (const messages of talks ?? []) { point(null); put(messages) }
      if (busy()) point(before);
      return shown();
    },
    reload() {  // gradio does that, too, when the server comes back
      if (!read(current)) point(null);
      restored = true;
      return [...shown(), sessionStorage.getItem(DRAFT) ?? ""];
    },
    leave() {  // not from a page that is left before it was ready: what was typed would be lost
      if (restored) sessionStorage.setItem(DRAFT, document.querySelector("#question textarea")?.value ?? "");
    },
    save() {
      const lines = all().map(talk => JSON.stringify({messages: talk.messages}) + "\n");
      if (!lines.length) return;
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob(lines, {type: "application/jsonl"}));
      link.download = "talks.jsonl";
      link.click();
    },
    word,
  };
})();

addEventListener("pagehide", miniglm.leave);
document.addEventListener("toggle", event => {  // a chapter opens where the sentence stands
  const chapter = event.target.querySelector?.(".chapter"), mark = chapter?.querySelector("mark");
  if (mark) chapter.scrollTop = mark.offsetTop - chapter.offsetTop - chapter.clientHeight / 3;
}, true);
document.addEventListener("mouseover", event => {  // a model's directory behind its name
  const box = event.target.closest?.(".model input, .model [role=option]");
  if (box) box.title = PATHS[(box.value || box.textContent).replace("✓", "").trim()] ?? "";
});
new MutationObserver(() => {
  for (const [english, key] of Object.entries(LABELS))  // what gradio says in English only
    for (const named of document.querySelectorAll(`[aria-label="${english}"]`)) {
      named.setAttribute("aria-label", miniglm.word(key));
      named.title = miniglm.word(key);
    }
  const heading = document.querySelector("h1");
  if (heading && document.title !== heading.textContent) document.title = heading.textContent;
  for (const told of document.querySelectorAll("[data-testid=toast-text]"))
    if (/^\s*Connection (to the server|errored)/.test(told.textContent)) {
      told.textContent = miniglm.word("offline");
      told.closest(".toast-body").querySelector(".toast-title").textContent = miniglm.word("error");
    }
}).observe(document, {childList: true, subtree: true});
