// The controls and keys of the page. The user's choices are saved in the fragment of the page address.

let theme = "";
function update() {
  showMatches();
  saveState();
}
function saveState() {
  const parameters = new URLSearchParams();
  if (state.query) parameters.set("q", state.query);
  if (state.marks.size) parameters.set("marks", [...state.marks].join(","));
  if (hasColumnFilter()) {
    parameters.set("column", fields[state.column][0]);
    parameters.set("operator", state.operator);
    parameters.set("value", state.value);
  }
  if (state.sort) parameters.set("sort", fields[state.sort][0]);
  if (state.isDescending) parameters.set("down", "1");
  history.replaceState(null, "", `#${parameters}`);
}
function restoreState() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  const fieldIndex = (name) => fields.findIndex(([field]) => field === name);
  state.query = parameters.get("q") || "";
  state.marks = new Set((parameters.get("marks") || "").split(",").filter((mark) => mark in data.marks));
  state.column = fieldIndex(parameters.get("column"));
  const operator = parameters.get("operator");
  state.operator = ["has", "is", "not", "least", "most"].includes(operator) ? operator : "has";
  state.value = parameters.get("value") || "";
  state.sort = Math.max(0, fieldIndex(parameters.get("sort")));
  state.isDescending = parameters.has("down");
  $("search").value = state.query;
  $("column").value = state.column;
  $("operator").value = state.operator;
  $("value").value = state.value;
  $("sort").value = state.sort;
  showDirection();
}
function showDirection() {
  $("direction").textContent = state.isDescending ? "↓" : "↑";
  $("direction").setAttribute("aria-pressed", state.isDescending);
}
function reverseOrder() {
  state.isDescending = !state.isDescending;
  showDirection();
  update();
}
function setChoicesOpen(isOpen) {
  $("choices").classList.toggle("open", isOpen); // has an effect on narrow screens only
  $("fold").setAttribute("aria-expanded", isOpen);
}
function togglePlaying() {
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
  restoreState();
  update();
}
function addOption(select, value, text) {
  const made = element("option", "", text);
  made.value = value;
  $(select).append(made);
}
addOption("column", -1, "—");
fields.forEach(([name], i) => {
  addOption("column", i, name);
  addOption("sort", i, name);
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
let updateTimer = 0;
const updateSoon = () => {
  clearTimeout(updateTimer);
  updateTimer = setTimeout(update, 120);
};
$("search").addEventListener("input", () => { state.query = $("search").value; updateSoon(); });
$("value").addEventListener("input", () => { state.value = $("value").value; updateSoon(); });
$("column").addEventListener("change", () => { state.column = Number($("column").value); update(); });
$("operator").addEventListener("change", () => { state.operator = $("operator").value; update(); });
$("sort").addEventListener("change", () => { state.sort = Number($("sort").value); update(); });
$("direction").addEventListener("click", reverseOrder);
$("play").addEventListener("click", togglePlaying);
$("fold").addEventListener("click", () => setChoicesOpen(!$("choices").classList.contains("open")));
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
addEventListener("hashchange", () => { restoreState(); update(); });

function focusCard(by) {
  const current = cards.indexOf(document.activeElement);
  const index = current < 0 ? 0 : Math.min(Math.max(current + by, 0), matches.length - 1);
  while (cards.length <= index && cards.length < matches.length) addCards();
  if (cards[index]) cards[index].focus();
}
// Moves to the nearest card in the next row of cards (direction 1) or the previous one (-1). Rows may be short.
function focusRow(direction) {
  const current = document.activeElement;
  if (!cards.includes(current)) return focusCard(0);
  const isBeyond = (card) => (card.offsetTop - current.offsetTop) * direction > 0;
  while (direction > 0 && cards.length < matches.length && !isBeyond(cards.at(-1))) addCards();
  const beyond = cards.filter(isBeyond);
  if (!beyond.length) return;
  const top = direction > 0 ? beyond[0].offsetTop : beyond.at(-1).offsetTop;
  const distance = (card) => Math.abs(card.offsetLeft - current.offsetLeft);
  const inRow = beyond.filter((card) => card.offsetTop === top);
  inRow.reduce((one, other) => (distance(other) < distance(one) ? other : one)).focus();
}
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
  const keys = {
    "/": () => $("search").focus(),
    "?": () => $("help").showModal(),
    s: reverseOrder,
    p: togglePlaying,
    j: () => focusCard(1), ArrowRight: () => focusCard(1),
    k: () => focusCard(-1), ArrowLeft: () => focusCard(-1),
    ArrowDown: () => focusRow(1), ArrowUp: () => focusRow(-1),
    0: () => { state.marks.clear(); update(); },
  };
  Object.keys(data.marks).forEach((mark, i) => { keys[i + 1] = () => toggleMark(mark); });
  if (event.key === "Enter" && event.target.classList.contains("card")) keys.Enter = () => showDialog(event.target.index);
  if (keys[event.key]) {
    event.preventDefault();
    keys[event.key]();
  }
});

if (data.run.length) {
  $("run").hidden = false;
  $("run").lastElementChild.append(...listItems(data.run));
}
restoreState();
update();
setChoicesOpen(hasColumnFilter() || state.sort > 0 || state.isDescending); // choices from the address must be visible
document.addEventListener("DOMContentLoaded", () => {
  onPageRead();
  if (openIndex >= 0) showDialog(openIndex);
});
