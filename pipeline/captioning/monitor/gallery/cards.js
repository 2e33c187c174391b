// Cards of the rows that match, with the frames of their clips.

const CHUNK = 60; // cards that are added at a time while the page is scrolled
const TICK = 450; // milliseconds a frame is shown while playing
const $ = (id) => document.getElementById(id);
const element = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};
const named = (pairs) => pairs.flatMap(([name, value]) => [element("dt", "", name), element("dd", "", value)]);
const shownColumns = new Set();
let matches = [];
let cards = []; // those that have been made, in the order of matches
let playing = false;

const urls = new Map();
let strips = [];
function stripUrl(number) {
  if (!urls.has(number)) {
    const holder = strips[number];
    if (!holder) return null; // the page is still being read
    const bytes = Uint8Array.from(atob(holder.textContent), (letter) => letter.charCodeAt(0));
    holder.remove();
    urls.set(number, URL.createObjectURL(new Blob([bytes], { type: "image/webp" })));
  }
  return urls.get(number);
}
function frameBox(row, className) {
  const [, width, height] = data.strips[row.strip];
  const box = element("div", className + " frame");
  box.style.aspectRatio = `${width} / ${height}`;
  box.style.setProperty("--ratio", width / height);
  return box;
}
function showFrame(box, row, number) {
  const count = data.strips[row.strip][0];
  box.style.backgroundPosition = count > 1 ? `${(number * 100) / (count - 1)}% 0` : "0 0";
  box.dataset.frame = number;
}
function paint(box, row) {
  const url = stripUrl(row.strip);
  if (!url) return false;
  box.style.backgroundImage = `url("${url}")`;
  box.style.backgroundSize = `${data.strips[row.strip][0] * 100}% 100%`;
  return true;
}
const seen = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      target.inView = isIntersecting;
      if (isIntersecting) paintCard(target);
    }
  },
  { rootMargin: "300px" },
);
function paintCard(card) {
  if (card.painted || card.row.strip === null) return;
  card.painted = [...card.querySelectorAll(".frame")].every((box) => paint(box, card.row));
}
function stripsAreRead() {
  strips = [...document.querySelectorAll("script.strip")];
  cards.filter((card) => card.inView).forEach(paintCard);
}

function marked(parent, text) {
  const wanted = terms().map((term) => term.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  if (!wanted.length) return parent.append(text);
  // The odd ones of what split() gives are what the pattern's group has found.
  text.split(new RegExp(`(${wanted.join("|")})`, "gi")).forEach((part, i) => {
    if (part) parent.append(i % 2 ? element("mark", "", part) : part);
  });
}
function badges(parent, row) {
  for (const mark of row.marks) {
    const text = mark === "repeated" ? `${row.times} times` : mark === "failed" && row.stage ? `failed at ${row.stage}` : mark;
    const badge = element("span", `badge ${mark}`, text);
    badge.title = data.marks[mark];
    parent.append(badge);
  }
}
function failureText(row) {
  return row.message || "no caption, and no message in the failures file";
}
function makeCard(row, place) {
  const card = element("article", "card");
  card.tabIndex = 0;
  card.row = row;
  card.place = place;
  const screen = element("div", "screen");
  card.append(screen);
  if (row.strip === null) {
    screen.append(element("div", "none", row.problem || "no frames"));
  } else {
    const [count, width, height] = data.strips[row.strip];
    const big = frameBox(row, width * 9 > height * 16 ? "wide" : "tall");
    big.setAttribute("role", "img");
    big.setAttribute("aria-label", `frames of ${row.path}`);
    screen.append(big);
    if (count > 1) {
      const thumbs = element("div", "thumbs");
      for (let i = 0; i < count; i++) {
        const thumb = element("div", "thumb");
        const box = frameBox(row, "");
        showFrame(box, row, i);
        thumb.append(box);
        thumb.addEventListener("pointerenter", () => pick(card, i));
        thumbs.append(thumb);
      }
      card.append(thumbs);
    }
    pick(card, 0);
  }
  const text = element("div", "words");
  const caption = element("p", row.text ? "caption" : "caption message");
  marked(caption, row.text || failureText(row));
  const labels = element("p", "badges");
  badges(labels, row);
  const about = element("p", "about");
  const name = element("span", "line");
  marked(name, `row ${row.row} · ${row.path.split("/").pop()}`);
  about.append(name);
  for (const i of shownColumns) about.append(element("span", "line", `${data.columns[i]}: ${row.cells[i]}`));
  text.append(caption, labels, about);
  card.append(text);
  card.addEventListener("click", () => showDialog(card.place));
  return card;
}
function pick(card, number) {
  const big = card.querySelector(".screen .frame");
  if (!big) return;
  showFrame(big, card.row, number);
  card.querySelectorAll(".thumb").forEach((thumb, i) => thumb.classList.toggle("now", i === number));
}
setInterval(() => {
  for (const card of cards) {
    if (!card.inView || card.row.strip === null) continue;
    const isWatched = playing || (card.matches(":hover, :focus") && !card.querySelector(".thumbs:hover"));
    if (!isWatched) continue;
    const big = card.querySelector(".screen .frame");
    pick(card, (Number(big.dataset.frame) + 1) % data.strips[card.row.strip][0]);
  }
}, TICK);

function show() {
  let counts;
  [matches, counts] = findRows();
  for (const [mark, count] of counts) {
    const button = $("marks").querySelector(`[data-mark=${mark}]`);
    button.textContent = `${mark} ${count}`;
    button.disabled = !count && !state.marks.has(mark);
    button.setAttribute("aria-pressed", state.marks.has(mark));
  }
  seen.disconnect();
  cards = [];
  $("cards").replaceChildren();
  moreCards();
  $("nothing").hidden = matches.length > 0;
  $("summary").textContent = summary();
}
function summary() {
  const number = (count) => count.toLocaleString("en");
  const all = data.captioned + data.failed;
  const shown = matches.length < rows.length ? `showing ${number(matches.length)} of ` : "";
  const sampled = rows.length < data.chosen ? `, drawn at random from ${number(data.chosen)}` : "";
  const table = data.chosen < all ? `table of ${number(all)} rows: ` : "";
  const outcome = `${number(data.captioned)} captioned, ${number(data.failed)} failed`;
  return `${shown}${number(rows.length)} row${rows.length === 1 ? "" : "s"}${sampled} · ${table}${outcome}`;
}
function addCards() {
  const added = matches.slice(cards.length, cards.length + CHUNK).map((row, i) => makeCard(row, cards.length + i));
  cards.push(...added);
  $("cards").append(...added);
  added.forEach((card) => seen.observe(card));
}
new IntersectionObserver(([entry]) => entry.isIntersecting && cards.length < matches.length && moreCards(), {
  rootMargin: "1200px",
}).observe($("more"));
function moreCards() {
  addCards();
  // An observer tells of changes only; the end may still be in view.
  requestAnimationFrame(() => {
    if (cards.length < matches.length && $("more").getBoundingClientRect().top < innerHeight + 1200) moreCards();
  });
}
