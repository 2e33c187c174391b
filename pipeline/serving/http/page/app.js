// The page: takes files, sends at most four at a time, and shows what became of them.

import { Card } from "./cards.js";
import { csv, download, droppedFiles } from "./files.js";
import { captionFile, KeyNeeded, servedModel } from "./protocol.js";

const MOST_IN_FLIGHT = 4;
const $ = (id) => document.getElementById(id);

const cards = []; // in the order in which they are shown
const inFlight = new Map(); // card -> AbortController
let key = ""; // in memory only
let needsKey = false;

function addFiles(files) {
  const added = [...files].map((file) => new Card(file, { onRemove: removeCard, onRetry: askAgain }));
  cards.push(...added);
  $("cards").append(...added.map((card) => card.element));
  update();
}

function update() {
  while (!needsKey && inFlight.size < MOST_IN_FLIGHT) {
    const next = cards.find((card) => card.state === "waiting" && !inFlight.has(card));
    if (next === undefined) break;
    start(next);
  }
  const count = (state) => cards.filter((card) => card.state === state).length;
  const done = count("done");
  const failed = count("failed");
  const open = cards.length - done - failed;
  const parts = [`${done} of ${cards.length} captioned`];
  if (open) parts.push(`${inFlight.size} in work, ${open - inFlight.size} waiting`);
  if (failed) parts.push(`${failed} failed`);
  $("summary").textContent = cards.length ? parts.join(" · ") : "";
  $("results").hidden = !cards.length;
  $("download").disabled = !done;
  $("again").hidden = !failed;
  document.body.classList.toggle("has-cards", cards.length > 0);
}

async function start(card) {
  const controller = new AbortController();
  const begin = performance.now();
  const used = key;
  inFlight.set(card, controller);
  card.showText("");
  card.show("sending");
  const onText = (text) => card.showText(text);
  const onBusy = (seconds) => card.show("sending", `the server is busy; next try in ${Math.ceil(seconds)} s`);
  try {
    const question = $("question").value.trim();
    const answer = await captionFile(card.file, question, used, controller.signal, onText, onBusy);
    card.showAnswer(answer, (performance.now() - begin) / 1000);
  } catch (error) {
    if (error instanceof KeyNeeded) {
      card.show("waiting", "waiting for the key");
      askForKey(used);
    } else if (!controller.signal.aborted) {
      card.showProblem(error.message);
    }
  } finally {
    if (inFlight.get(card) === controller) inFlight.delete(card);
  }
  update();
}

function removeCard(card) {
  const index = cards.indexOf(card);
  const hadFocus = card.element.contains(document.activeElement);
  cards.splice(index, 1);
  inFlight.get(card)?.abort();
  inFlight.delete(card);
  card.remove();
  if (hadFocus) (cards[Math.min(index, cards.length - 1)]?.find("remove") ?? $("choose")).focus();
  update();
}

function askAgain(card) {
  card.show("waiting");
  card.find("remove").focus(); // the button that was pressed is hidden now
  update();
}

// used: the key that was refused. Requests in flight may still fail with an earlier one.
function askForKey(used) {
  if (used !== key) return;
  $("key-label").textContent = key ? "The server does not accept this key." : "The server asks for a key.";
  if (needsKey) return;
  needsKey = true;
  $("key-form").hidden = false;
  $("key").select();
  $("key").focus();
}

async function showModel() {
  const used = key;
  try {
    $("model").textContent = (await servedModel(used)) ?? "";
  } catch {
    askForKey(used);
  }
}

function downloadTable() {
  const done = cards.filter((card) => card.state === "done");
  const rows = done.map((card) => [card.file.name, card.text.trim().replace(/\s+/g, " ")]);
  download("captions.csv", "text/csv;charset=utf-8", csv([["file", "text"], ...rows]));
}

$("choose").addEventListener("click", () => $("files").click());
$("files").addEventListener("change", () => {
  addFiles($("files").files);
  $("files").value = ""; // so that the same file can be chosen again
});
$("again").addEventListener("click", () => {
  for (const card of cards.filter(({ state }) => state === "failed")) card.show("waiting");
  update();
});
$("download").addEventListener("click", downloadTable);
$("clear").addEventListener("click", () => {
  for (const card of [...cards]) removeCard(card);
  $("choose").focus();
});
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  needsKey = false;
  $("key-form").hidden = true;
  showModel();
  update();
});
$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
});

let depth = 0; // of elements that the dragged files have entered
addEventListener("dragenter", () => document.body.classList.toggle("dragging", ++depth > 0));
addEventListener("dragleave", () => document.body.classList.toggle("dragging", (depth = Math.max(0, depth - 1)) > 0));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", async (event) => {
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("dragging");
  addFiles(await droppedFiles(event.dataTransfer));
});
addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) addFiles(event.clipboardData.files);
});
addEventListener("beforeunload", (event) => {
  if (inFlight.size) event.preventDefault(); // the browser asks whether to leave
});

showModel();
update();
