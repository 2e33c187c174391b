// Makes a card for each matching row, with the frames of its clip.

const CARDS_PER_STEP = 60; // cards added in one step while the user scrolls
const FRAME_MILLISECONDS = 450; // display time of a frame while playing
const $ = (id) => document.getElementById(id);
const element = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};
const listItems = (pairs) => pairs.flatMap(([name, value]) => [element("dt", "", name), element("dd", "", value)]);
const shownColumns = new Set();
let matches = [];
let matchIndex = new Map(); // from each of the matches to its index
let cards = []; // cards made so far, in the order of matches
let playing = false;

const urls = new Map(); // object URLs of decoded pictures, by number
let strips = []; // elements that hold the encoded pictures
function pictureUrl(number) {
  if (!urls.has(number)) {
    const encoded = strips[number];
    if (!encoded) return null; // the browser has not read the whole page yet
    const bytes = Uint8Array.from(atob(encoded.textContent), (letter) => letter.charCodeAt(0));
    encoded.remove();
    urls.set(number, URL.createObjectURL(new Blob([bytes], { type: "image/webp" })));
  }
  return urls.get(number);
}
function makeFrameBox(row, className) {
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
function loadPicture(box, row) {
  const url = pictureUrl(row.strip);
  if (!url) return false;
  box.style.backgroundImage = `url("${url}")`;
  box.style.backgroundSize = `${data.strips[row.strip][0] * 100}% 100%`;
  return true;
}
const visibilityObserver = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      target.inView = isIntersecting;
      if (isIntersecting) loadCardPictures(target);
    }
  },
  { rootMargin: "300px" },
);
function loadCardPictures(card) {
  if (card.painted || card.row.strip === null) return;
  card.painted = [...card.querySelectorAll(".frame")].every((box) => loadPicture(box, card.row));
}
function onPageRead() {
  strips = [...document.querySelectorAll("script.strip")];
  cards.filter((card) => card.inView).forEach(loadCardPictures);
}

function appendHighlighted(parent, text) {
  const patterns = terms().map((term) => term.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  if (!patterns.length) return parent.append(text);
  // In the result of split(), the parts at odd positions are the matches of the pattern's group.
  text.split(new RegExp(`(${patterns.join("|")})`, "gi")).forEach((part, i) => {
    if (part) parent.append(i % 2 ? element("mark", "", part) : part);
  });
}
function makeBadges(caption) {
  const badges = element("p", "badges");
  for (const mark of caption.marks) {
    const failure = caption.stage ? `failed at ${caption.stage}` : mark;
    const text = mark === "repeated" ? `${caption.times} times` : mark === "failed" ? failure : mark;
    const badge = element("span", `badge ${mark}`, text);
    badge.title = data.marks[mark];
    badges.append(badge);
  }
  return badges;
}
function makeText(caption, className) {
  const text = element("p", caption.text ? className : `${className} message`);
  appendHighlighted(text, caption.text || caption.message || "no caption, and no message in the failures file");
  return text;
}
// The name of the column of a caption; nothing if there is only one column of captions.
const makeNames = (index) => (hasSeveralCaptions ? [element("h3", "line", data.captions[index])] : []);
function makeCard(row, index) {
  const card = element("article", "card");
  card.tabIndex = 0;
  card.row = row;
  card.index = index;
  const screen = element("div", "screen");
  card.append(screen);
  if (row.strip === null) {
    screen.append(element("div", "none", row.problem || "no frames"));
  } else {
    const [count, width, height] = data.strips[row.strip];
    const big = makeFrameBox(row, width * 9 > height * 16 ? "wide" : "tall");
    big.setAttribute("role", "img");
    big.setAttribute("aria-label", `frames of ${row.path}`);
    screen.append(big);
    if (count > 1) {
      const thumbs = element("div", "thumbs");
      for (let i = 0; i < count; i++) {
        const thumb = element("div", "thumb");
        const box = makeFrameBox(row, "");
        showFrame(box, row, i);
        thumb.append(box);
        thumb.addEventListener("pointerenter", () => selectFrame(card, i));
        thumbs.append(thumb);
      }
      card.append(thumbs);
    }
    selectFrame(card, 0);
  }
  const text = element("div", "words");
  if (isSegment(row)) text.append(element("p", "time", rangeText(row)));
  row.captions.forEach((caption, i) => text.append(...makeNames(i), makeText(caption, "caption"), makeBadges(caption)));
  const about = element("p", "about");
  const name = element("span", "line");
  appendHighlighted(name, `${data.unit} ${row.row} · ${row.path.split("/").pop()}`);
  about.append(name);
  for (const i of shownColumns) about.append(element("span", "line", `${data.columns[i]}: ${row.cells[i]}`));
  text.append(about);
  card.append(text);
  card.addEventListener("click", () => showDialog(card.index));
  return card;
}
function selectFrame(card, number) {
  const big = card.querySelector(".screen .frame");
  if (!big) return;
  showFrame(big, card.row, number);
  card.querySelectorAll(".thumb").forEach((thumb, i) => thumb.classList.toggle("now", i === number));
}
setInterval(() => {
  for (const card of cards) {
    if (!card.inView || card.row.strip === null) continue;
    const isPlaying = playing || (card.matches(":hover, :focus") && !card.querySelector(".thumbs:hover"));
    if (!isPlaying) continue;
    const big = card.querySelector(".screen .frame");
    selectFrame(card, (Number(big.dataset.frame) + 1) % data.strips[card.row.strip][0]);
  }
}, FRAME_MILLISECONDS);

function showMatches() {
  let counts;
  [matches, counts] = findRows();
  matchIndex = new Map(matches.map((row, i) => [row, i]));
  for (const [mark, count] of counts) {
    const button = $("marks").querySelector(`[data-mark=${mark}]`);
    button.textContent = `${mark} ${count}`;
    button.disabled = !count && !state.marks.has(mark);
    button.setAttribute("aria-pressed", state.marks.has(mark));
  }
  visibilityObserver.disconnect();
  cards = [];
  $("cards").replaceChildren();
  fillWindow();
  $("nothing").hidden = matches.length > 0;
  $("summary").textContent = summary();
}
function summary() {
  const number = (count) => count.toLocaleString("en");
  const shown = matches.length < rows.length ? `showing ${number(matches.length)} of ` : "";
  const sampled = rows.length < data.chosen ? `, drawn at random from ${number(data.chosen)}` : "";
  const table = data.chosen < data.total ? `table of ${number(data.total)} rows: ` : "";
  const outcomes = data.captions.map((column, i) => {
    const captioned = data.captioned[i];
    const name = hasSeveralCaptions ? `${column}: ` : "";
    return `${name}${number(captioned)} captioned, ${number(data.total - captioned)} failed`;
  });
  const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
  const videos = data.videos.length && rows.every(isSegment) ? ` of ${counted(data.videos.length, "video")}` : "";
  const count = counted(rows.length, data.unit) + videos;
  return `${shown}${count}${sampled} · ${table}${outcomes.join("; ")}`;
}
function addCards() {
  const first = cards.length;
  const added = matches.slice(first, first + CARDS_PER_STEP).map((row, i) => makeCard(row, first + i));
  cards.push(...added);
  $("cards").append(...added.flatMap((card) => [...makeBlockHead(card.row, matches[card.index - 1]), card]));
  added.forEach((card) => visibilityObserver.observe(card));
}
new IntersectionObserver(([entry]) => entry.isIntersecting && cards.length < matches.length && fillWindow(), {
  rootMargin: "1200px",
}).observe($("more"));
function fillWindow() {
  addCards();
  // An observer reports changes only, and the end of the list may still be in view.
  requestAnimationFrame(() => {
    if (cards.length < matches.length && $("more").getBoundingClientRect().top < innerHeight + 1200) fillWindow();
  });
}
