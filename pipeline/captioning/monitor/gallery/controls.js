// Choices, keys, and the address that remembers what was chosen.

let theme = "";
function update() {
  show();
  remember();
}
function remember() {
  const kept = new URLSearchParams();
  if (state.query) kept.set("q", state.query);
  if (state.marks.size) kept.set("marks", [...state.marks].join(","));
  if (columnCounts()) {
    kept.set("column", fields[state.column][0]);
    kept.set("operator", state.operator);
    kept.set("value", state.value);
  }
  if (state.sort) kept.set("sort", fields[state.sort][0]);
  if (state.down) kept.set("down", "1");
  history.replaceState(null, "", `#${kept}`);
}
function recall() {
  const kept = new URLSearchParams(location.hash.slice(1));
  const place = (name) => fields.findIndex(([field]) => field === name);
  state.query = kept.get("q") || "";
  state.marks = new Set((kept.get("marks") || "").split(",").filter((mark) => mark in data.marks));
  state.column = place(kept.get("column"));
  const operator = kept.get("operator");
  state.operator = ["has", "is", "not", "least", "most"].includes(operator) ? operator : "has";
  state.value = kept.get("value") || "";
  state.sort = Math.max(0, place(kept.get("sort")));
  state.down = kept.has("down");
  $("search").value = state.query;
  $("column").value = state.column;
  $("operator").value = state.operator;
  $("value").value = state.value;
  $("sort").value = state.sort;
  setDirection();
}
function setDirection() {
  $("direction").textContent = state.down ? "↓" : "↑";
  $("direction").setAttribute("aria-pressed", state.down);
}
function turnRound() {
  state.down = !state.down;
  setDirection();
  update();
}
function fold(isOpen) {
  $("choices").classList.toggle("open", isOpen); // counts on narrow screens only
  $("fold").setAttribute("aria-expanded", isOpen);
}
function play() {
  playing = !playing;
  $("play").setAttribute("aria-pressed", playing);
  $("play").textContent = playing ? "❚❚ Pause" : "▶ Play";
}
function toggleMark(mark) {
  if (!state.marks.delete(mark)) state.marks.add(mark);
  update();
}
function reset() {
  history.replaceState(null, "", "#");
  recall();
  update();
}
function option(select, value, text) {
  const made = element("option", "", text);
  made.value = value;
  $(select).append(made);
}
option("column", -1, "—");
fields.forEach(([name], i) => {
  option("column", i, name);
  option("sort", i, name);
});
data.columns.forEach((name, i) => {
  const label = element("label");
  const box = element("input");
  box.type = "checkbox";
  box.addEventListener("change", () => {
    if (box.checked) shownColumns.add(i);
    else shownColumns.delete(i);
    update();
  });
  label.append(box, ` ${name}`);
  $("shown").lastElementChild.append(label);
});
$("shown").hidden = !data.columns.length;
for (const mark of Object.keys(data.marks)) {
  const button = element("button", mark);
  button.type = "button";
  button.dataset.mark = mark;
  button.title = data.marks[mark];
  button.addEventListener("click", () => toggleMark(mark));
  $("marks").append(button);
}
let pause = 0;
const soon = () => {
  clearTimeout(pause);
  pause = setTimeout(update, 120);
};
$("search").addEventListener("input", () => { state.query = $("search").value; soon(); });
$("value").addEventListener("input", () => { state.value = $("value").value; soon(); });
$("column").addEventListener("change", () => { state.column = Number($("column").value); update(); });
$("operator").addEventListener("change", () => { state.operator = $("operator").value; update(); });
$("sort").addEventListener("change", () => { state.sort = Number($("sort").value); update(); });
$("direction").addEventListener("click", turnRound);
$("play").addEventListener("click", play);
$("fold").addEventListener("click", () => fold(!$("choices").classList.contains("open")));
$("reset").addEventListener("click", reset);
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("close").addEventListener("click", () => $("dialog").close());
$("help-button").addEventListener("click", () => $("help").showModal());
$("help-close").addEventListener("click", () => $("help").close());
$("theme").addEventListener("click", () => {
  const isDark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  theme = isDark ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
});
addEventListener("hashchange", () => { recall(); update(); });

function go(by) {
  const at = cards.indexOf(document.activeElement);
  const place = at < 0 ? 0 : Math.min(Math.max(at + by, 0), matches.length - 1);
  while (cards.length <= place && cards.length < matches.length) addCards();
  if (cards[place]) cards[place].focus();
}
const cardsInARow = () => cards.findIndex((card) => card.offsetTop > cards[0].offsetTop);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if ($("dialog").open) {
    if (event.key === "ArrowLeft" || event.key === "k") step(-1);
    else if (event.key === "ArrowRight" || event.key === "j") step(1);
    return;
  }
  const isTyping = event.target.matches("input:not([type=checkbox]), select, summary");
  if (event.key === "Escape" && isTyping) return event.target.blur();
  if (isTyping || $("help").open) return;
  const across = Math.max(1, cardsInARow());
  const keys = {
    "/": () => $("search").focus(),
    "?": () => $("help").showModal(),
    s: turnRound,
    p: play,
    j: () => go(1), ArrowRight: () => go(1),
    k: () => go(-1), ArrowLeft: () => go(-1),
    ArrowDown: () => go(across), ArrowUp: () => go(-across),
    0: () => { state.marks.clear(); update(); },
  };
  Object.keys(data.marks).forEach((mark, i) => { keys[i + 1] = () => toggleMark(mark); });
  if (event.key === "Enter" && event.target.classList.contains("card")) keys.Enter = () => showDialog(event.target.place);
  if (keys[event.key]) {
    event.preventDefault();
    keys[event.key]();
  }
});

if (data.run.length) {
  $("run").hidden = false;
  $("run").lastElementChild.append(...named(data.run));
}
recall();
update();
fold(columnCounts() || state.sort > 0 || state.down); // a choice that the address holds must be seen
document.addEventListener("DOMContentLoaded", () => {
  stripsAreRead();
  if (open >= 0) showDialog(open);
});
